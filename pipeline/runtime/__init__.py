"""Where the steps of `pipeline.flow` run: on Ray Data or in one process. The only place that imports ray."""
