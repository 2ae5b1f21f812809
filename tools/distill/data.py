"""Packed training batches, made by worker processes.

A batch holds rows of ROW tokens; documents do not cross rows. `targets` are the flat positions whose next token counts
in the loss. For distilling, `teacher` is a second packing of the same documents as the teacher sees them, whose
`targets` are aligned with the student's one to one.
"""
import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from curriculum import generate  # noqa: E402
from distill import chat  # noqa: E402
from distill.tokenizer import Tokenizer  # noqa: E402

ROW = 1024
PAD = 1  # <|bos|>: never seen otherwise


@dataclass
class Document:
    """Token ids; the reply starts at `reply`."""
    ids: list
    reply: int
    twin: object = None  # the same question as the teacher sees it


@dataclass
class Rows:
    ids: np.ndarray        # (N) int32
    positions: np.ndarray  # (N) int32
    starts: np.ndarray     # (documents+1) int32
    targets: np.ndarray    # flat positions: the token after each is to be predicted
    longest: int
    tokens: int = 0        # without padding


class Packer:
    """First fit into rows, each with room for ROW tokens."""

    def __init__(self, rows):
        self.rows = [[] for _ in range(rows)]
        self.room = [ROW] * rows

    def fits(self, length):
        for row, room in enumerate(self.room):
            if room >= length:
                return row
        return None

    def put(self, row, document):
        self.rows[row].append(document)
        self.room[row] -= len(document.ids)

    def finish(self):
        n = ROW * len(self.rows)
        ids, positions = np.full(n, PAD, np.int32), np.zeros(n, np.int32)
        starts, targets, longest, tokens = [0], [], 1, 0
        for r, row in enumerate(self.rows):
            at = r * ROW
            for document in row:
                length = len(document.ids)
                ids[at:at + length] = document.ids
                positions[at:at + length] = np.arange(length)
                targets.append(np.arange(at + document.reply - 1, at + length - 1))
                at, longest, tokens = at + length, max(longest, length), tokens + length
                starts.append(at)
            if at < (r + 1) * ROW:
                longest = max(longest, (r + 1) * ROW - at)  # the padding is a document of its own, never a target
                starts.append((r + 1) * ROW)
        return Rows(ids, positions, np.array(starts, np.int32), np.concatenate(targets), longest, tokens)


def document(tokenizer, item, mode):
    """mode: "full", "short" or "none" working; "brief" is the core model told to work briefly."""
    prompt = chat.prompt_ids(tokenizer, item.messages)
    work = {"full": item.work_full, "short": item.work_short, "brief": item.work_short, "none": None}[mode]
    if mode == "brief":
        prompt = prompt + [tokenizer.special_ids["<|brief|>"]]
    return Document(prompt + chat.reply_ids(tokenizer, work, item.answer), len(prompt))


def answer_tail(tokenizer, student, teacher):
    """For a student without working: the teacher's reply starts after its own working."""
    return Document(teacher.ids, len(teacher.ids) - (len(student.ids) - student.reply))


def teacher_document(tokenizer, item, mode, student):
    if mode == "none":
        return answer_tail(tokenizer, student, document(tokenizer, item, "full"))
    return document(tokenizer, item, "brief")


@dataclass
class Batch:
    student: Rows
    teacher: Rows = None


class Maker:
    """Endless batches of one worker. `rows` bounds the student's rows, `teacher_rows` the teacher's."""

    def __init__(self, seed, mode, rows, brief_share=0.0, teacher_rows=0):
        self.items = generate(seed, None, "train")
        self.tokenizer, self.mode, self.rows = Tokenizer.load(), mode, rows
        self.brief_share, self.teacher_rows = brief_share, teacher_rows
        self.count, self.pending = 0, None

    def pick_mode(self):
        """A share of the core's documents in brief mode, spread evenly."""
        self.count += 1
        return "brief" if (self.count * self.brief_share) % 1 < self.brief_share and self.brief_share else self.mode

    def next_pair(self):
        item = next(self.items)
        student = document(self.tokenizer, item, self.pick_mode())
        teacher = teacher_document(self.tokenizer, item, self.mode, student) if self.teacher_rows else None
        return student, teacher

    def batch(self):
        packer = Packer(self.rows)
        teacher = Packer(self.teacher_rows) if self.teacher_rows else None
        while True:
            pair = self.pending or self.next_pair()
            self.pending = pair
            row = packer.fits(len(pair[0].ids))
            teacher_row = teacher.fits(len(pair[1].ids)) if teacher else 0
            if row is None or teacher_row is None:
                break
            packer.put(row, pair[0])
            if teacher:
                teacher.put(teacher_row, pair[1])
                pair[0].twin = pair[1]
            self.pending = None
        return self.finished(packer, teacher)

    @staticmethod
    def finished(packer, teacher):
        student = packer.finish()
        if teacher is None:
            return Batch(student)
        rows = teacher.finish()
        spans, at = {}, 0
        for row in teacher.rows:
            for doc in row:
                length = len(doc.ids) - doc.reply
                spans[id(doc)] = (at, at + length)
                at += length
        order = [np.arange(*spans[id(doc.twin)]) for row in packer.rows for doc in row]
        rows.targets = rows.targets[np.concatenate(order)]
        return Batch(student, rows)


def work(queue, seed, options):
    os.nice(5)
    maker = Maker(seed, **options)
    while True:
        queue.put(maker.batch())


class Stream:
    """Batches from worker processes, taken in turn so that their order does not depend on timing."""

    def __init__(self, workers, seed, **options):
        context = multiprocessing.get_context("spawn")
        self.queues = [context.Queue(8) for _ in range(workers)]
        self.processes = [context.Process(target=work, args=(q, f"{seed}/{i}", options), daemon=True)
                          for i, q in enumerate(self.queues)]
        for process in self.processes:
            process.start()
        self.turn = 0

    def next(self):
        batch = self.queues[self.turn % len(self.queues)].get()
        self.turn += 1
        return batch

    def close(self):
        for process in self.processes:
            process.terminate()
