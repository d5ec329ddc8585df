"""One runnable module for each node of the DAG: ``python -m stages.NAME [method]``."""
