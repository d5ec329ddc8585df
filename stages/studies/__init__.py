"""Studies: many runs of the pipeline that together answer one question. Not nodes of the DAG."""
