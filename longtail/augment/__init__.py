"""Train-time augmentation: policies and the batched operations behind them."""
