"""Which clips need the editor: all of them, unless the draft of a clip is sure enough of itself (off by default)."""

from __future__ import annotations

import numpy as np

from pipeline.engines.granite_nar.collapse import Tokens
from pipeline.engines.granite_nar.device import Plan, Policy
from pipeline.engines.granite_nar.model import Batch


def keep_sure_drafts(least_mean: float, least_token: float) -> Policy:
    """Clips whose draft tokens have a mean posterior of `least_mean` and none below `least_token` keep their draft.

    The idea is from ccyrene/granite-speech-4.1-2b-nar-turbo, whose gate (0.92, 0.75) has three conditions more.
    A clip without draft tokens goes to the editor.
    """

    def choose(batch: Batch, drafts: Tokens) -> Plan:
        each = np.repeat(np.arange(batch.clips), drafts.counts)
        total = np.bincount(each, drafts.probabilities, batch.clips)
        lowest = np.ones(batch.clips)
        np.minimum.at(lowest, each, drafts.probabilities)
        sure = (drafts.counts > 0) & (total >= least_mean * drafts.counts) & (lowest >= least_token)
        clips = np.flatnonzero(~sure)
        ids = drafts.split()
        return Plan(clips, [ids[clip] for clip in clips])

    return choose
