"""What one rank asks for, all ranks do."""

from __future__ import annotations

from .. import distributed
from ..state import Control, State
from .interrupts import Interrupts

_LOG, _EVALUATE, _SAVE, _STOP, _PREEMPTED, _STOPPED = (1 << bit for bit in range(6))


class Agreement:
    """Makes the ranks' flags and signals equal, by one small collective on the CPU."""

    def __init__(self, control: Control, interrupts: Interrupts, state: State) -> None:
        self.control, self.interrupts, self.state = control, interrupts, state

    def reach(self) -> bool:
        """Set on every rank what any rank has set; True if a signal asks to save and stop (collective).

        A signal during the last step interrupts nothing.
        """
        if distributed.world_size() > 1:
            self._unpack(distributed.all_or(self._pack()))
        if self.interrupts.status is None or self.state.step >= self.state.max_steps:
            return False
        self.control.should_training_stop = True
        return True

    def _pack(self) -> int:
        control, status = self.control, self.interrupts.status
        return (
            control.should_log * _LOG
            | control.should_evaluate * _EVALUATE
            | control.should_save * _SAVE
            | control.should_training_stop * _STOP
            | (status == "preempted") * _PREEMPTED
            | (status == "stopped") * _STOPPED
        )

    def _unpack(self, flags: int) -> None:
        control = self.control
        control.should_log, control.should_evaluate = bool(flags & _LOG), bool(flags & _EVALUATE)
        control.should_save, control.should_training_stop = bool(flags & _SAVE), bool(flags & _STOP)
        if flags & (_PREEMPTED | _STOPPED):
            self.interrupts.status = "preempted" if flags & _PREEMPTED else "stopped"
