"""Jobs that wait for a decoder let others work, one at a time, and begin in their order."""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest

from replay_adapters.session.overlap import overlapped
from replay_core.decoding.options import EngineOptions
from replay_core.decoding.vllm import at_once


@dataclass
class Decoder:
    """Answers when ``wanted`` prompts have come, the last one first."""

    options: EngineOptions
    wanted: int
    pause: object = at_once
    begun: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    working: threading.Lock = field(default_factory=threading.Lock)
    asked: dict[int, Future] = field(default_factory=dict)

    def job(self, number: int):
        def work() -> int:
            with self._alone():
                self.begun.append(number)
                answer = self.asked[number] = Future()
                if len(self.asked) == self.wanted:
                    threading.Thread(target=self._answer).start()
            self.pause(lambda: answer.result(timeout=20))
            with self._alone():
                self.ended.append(number)
            return answer.result()

        return work

    def _answer(self) -> None:
        time.sleep(0.3)  # whoever may begin has begun by then
        for number in sorted(self.asked, reverse=True):
            self.asked[number].set_result(10 * number)

    def _alone(self):
        assert self.working.acquire(blocking=False), "two jobs worked at the same time"
        self.working.release()
        return self.working


def decoder(wanted: int, at_a_time: int = 8) -> Decoder:
    return Decoder(EngineOptions(max_num_seqs=at_a_time), wanted)


def test_all_jobs_are_begun_before_the_first_is_answered():
    one = decoder(wanted=6)
    assert overlapped(one, [one.job(number) for number in range(6)]) == [0, 10, 20, 30, 40, 50]
    assert one.begun == [0, 1, 2, 3, 4, 5]
    assert sorted(one.ended) == one.begun
    assert one.pause is at_once


def test_no_more_is_begun_than_keeps_the_decoder_full():
    one = decoder(wanted=5, at_a_time=8)  # two prompts a job: four jobs fill it, and one waits
    jobs = [*(one.job(number) for number in range(5)), lambda: len(one.ended)]
    assert overlapped(one, jobs, each=2)[-1] > 0
    assert one.begun == [0, 1, 2, 3, 4]


def test_the_first_failure_is_raised_and_nothing_more_begins():
    one = decoder(wanted=2, at_a_time=2)
    begun = []

    def fails():
        begun.append("fails")
        raise ValueError("broken")

    jobs = [one.job(0), one.job(1), fails, lambda: begun.append("late")]
    with pytest.raises(ValueError, match="broken"):
        overlapped(one, jobs)
    assert begun == ["fails"]
    assert one.pause is at_once


def test_without_a_decoder_and_within_a_job_all_go_one_by_one():
    assert overlapped(None, [lambda: 1, lambda: 2]) == [1, 2]
    one = decoder(wanted=1)
    inner = overlapped(one, [lambda: overlapped(one, [one.job(0), lambda: list(one.ended)])])
    assert inner == [[0, [0]]]
