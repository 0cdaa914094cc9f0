"""The questions that are asked, by which programs, and how long those may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Program:
    """One program that answers a question, or a part of it."""

    module: str
    """`benchmarks.<module>`"""
    minutes: float
    """What it takes on two cores; it is ended when it takes four times that."""
    arguments: tuple[str, ...] = ()
    is_long: bool = False
    """Whether it runs only when asked to: with `--whole` or `--full`."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question; its results are `results/<id>-*.json`."""

    id: str
    title: str
    how: str
    """What is measured and how, for the page."""
    programs: tuple[Program, ...]

    @property
    def name(self) -> str:
        """A name for its picture."""
        return f"{self.id}-{self.programs[0].module.removeprefix(self.id + '_')}".replace("_", "-")


QUESTIONS = (
    Question(
        "a",
        "How much of the model's speed is left in the whole worker?",
        "Messages through the whole worker (broker, bucket, decoding, model, result, publishing, ack) beside "
        "a bare loop that calls the same model with decoded pictures in its best batch. The peers get the "
        "same messages from the same broker and the same model.",
        (Program("a_efficiency", 3.5),),
    ),
    Question(
        "b",
        "What do batches gain, and what do they cost?",
        "With 32 requests at a time: how many times as fast as one by one, as a share of what the device can "
        "gain. With one at a time: what the batcher adds to its latency.",
        (Program("b_batching", 2),),
    ),
    Question(
        "c",
        "What does a message cost?",
        "Messages whose pipeline does nothing, beside Google's client with a callback that only acks, with "
        "its threads and without, and beside a loop that pulls and acks; and the CPU time of a message's "
        "full path, which fetches no photo.",
        (Program("c_overhead", 1.5),),
    ),
    Question(
        "d",
        "How fast are SAM's automatic masks?",
        "A photo's masks as run lengths, by ours and by segment-anything's own generator with the same "
        "weights, both on one core, stock with the `points_per_batch` at which it is fastest. The small SAM "
        "runs whole. ViT-B-sized is measured by stage, and what is marked *composed* is computed from the "
        "stages by the formula in `benchmarks/d_sam.py`; rows marked *whole* ran from beginning to end. "
        "Where both sides have seen a photo whole, their masks are compared. There is no trained ViT-B here, "
        "and random weights give noise for masks: its own are compared as they leave the decoder; a whole "
        "run goes on with the small SAM's masks in their place, on both sides. The whole run at 48 MP "
        "was made while the other core was in use, that at 12 MP in part. It can slow stock more than ours: "
        "at 1 MP it made 5.58 of 3.67.",
        (
            Program("d_sam", 5.5),
            Program("d_sam", 105, ("--whole",), is_long=True),
        ),
    ),
    Question(
        "e",
        "How fast is detection in tiles?",
        "The same photos, weights, tiles and merging, by ours and by SAHI, each with one thread on the same "
        "core, by turns. Merging alone is measured on boxes as overlapping tiles leave them. A simulated "
        "device, which only takes time, shows what batches gain where they gain something.",
        (Program("e_tiles", 2.5),),
    ),
    Question(
        "f",
        "How much memory does a photo need?",
        "What a process that is ready and holds the photo's file grows by at its peak, as the kernel counts "
        "it; beside Pillow, SAHI and stock SAM. A process that is ready has some memory left over from "
        "warming up, in which a small photo finds room: so it may grow by less than the pixels. For SAM: "
        "what is added to the decoded photo.",
        (Program("f_memory", 1), Program("f_sam", 1)),
    ),
    Question(
        "g",
        "How soon is a worker ready?",
        "From the start of the process to the first answer that it is ready, beside loading the same models "
        "as their libraries' documentation says.",
        (Program("g_start", 1.5), Program("g_start", 3, ("--whole",), is_long=True)),
    ),
    Question(
        "h",
        "What do more workers bring?",
        "A backlog of 60 messages for each worker, and 1, 2, 4 and 8 workers as processes with simulated "
        "devices; then one of them is killed.",
        (Program("h_scale_out", 2.75),),
    ),
    Question(
        "i",
        "What grows with what?",
        "One unit of work, ten and a hundred: messages a second, pixels of a photo, boxes to be merged, "
        "elements of a pipeline, tenants. What counts is the CPU time of a unit with a hundred over that "
        "with one: up to 1.1, cost grows no faster than the work.",
        (Program("i_growth", 2),),
    ),
    Question(
        "j",
        "Does one tenant's work hold up another's?",
        "One tenant has 100 photos of 48 megapixels waiting; another sends one small photo. How long it "
        "takes, over how long it takes alone.",
        (Program("j_fairness", 0.75),),
    ),
    Question(
        "k",
        "What do traces cost?",
        "The spans of one message's way, one after the other with nothing between them: without a collector, "
        "with one of which the message is not drawn, and recorded. What counts is processor time.",
        (Program("k_tracing", 0.25),),
    ),
)
