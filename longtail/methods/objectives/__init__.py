"""What backbone training minimises: one module an objective, on the seam of ``longtail.train.objective``."""
