"""The run: stages in order, in a folder that can be continued."""

from weakclip.pipeline.run import RunResult, run_pipeline, run_stage

__all__ = ["RunResult", "run_pipeline", "run_stage"]
