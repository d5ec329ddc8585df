"""Mean softmax cross-entropy, the stage-1 objective of Kang et al. 2020."""

from torch import Tensor
from torch.nn import functional as F

from longtail.data.batches import Batch
from longtail.engine.objective import Moment, Objective
from longtail.models.classifier import Classifier


class CrossEntropy(Objective):
    """Plain cross-entropy on one view; logs the accuracy on the augmented training images, in percent."""

    def loss(self, model: Classifier, batch: Batch, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        logits = model(batch.views[0])
        correct = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return F.cross_entropy(logits.float(), batch.labels), {"train_accuracy": 100 * correct}
