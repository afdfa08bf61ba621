"""Faults put into the shipped AscendC sources: the twin or the numbers must detect every one.

Each mutant replaces one piece of text in one file of op_kernel. It is run on a case that the unpatched kernel passes,
and must stop with the message given, or (WRONG) come back with numbers that differ from the unpatched kernel's.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from ascendc_host import twin
from test_ascend_kernels import Attention, draw

from mindsora.nn.rope import rope_table, split_v1_5

pytestmark = pytest.mark.full

WRONG = "wrong numbers"
RACE = "no flag, barrier or queue orders the two"
UNWRITTEN = "nothing has written"


class Mutant(NamedTuple):
    case: str
    file: str
    old: str
    new: str
    expected: str


PERMUTE, ADA, QK = "skiparse_permute.cpp", "ada_norm_modulate.cpp", "qk_norm_rope.cpp"
FORWARD, GRAD, CUBE = "skiparse_attention.cpp", "skiparse_attention_grad.cpp", "attention_cube.h"
GRAD_VECTORS = "attention_grad_vectors.h"
VECTOR, UNITS, ROWS = "attention_vector.h", "attention_units.h", "skiparse_rows.h"

MUTANTS = {
    # skiparse_permute
    "zeros stored before they are made": Mutant(
        "permute",
        ROWS,
        """    AscendC::SetFlag<AscendC::HardEvent::V_MTE3>(event);
    AscendC::WaitFlag<AscendC::HardEvent::V_MTE3>(event);
""",
        "    (void)event;\n",
        RACE,
    ),
    "padding rows not stored": Mutant(
        "permute",
        PERMUTE,
        "StoreZeros((place",
        "if (t_.n == 99) StoreZeros((place",
        "output y: byte .* was never written",
    ),
    "one real row too many": Mutant(
        "permute", PERMUTE, "Max(rows_.Real(j), row)", "Max(rows_.Real(j) + 1, row)", "outside a global tensor"
    ),
    "wrong stride between runs": Mutant("permute", ROWS, "run.stride = n_ * n_;", "run.stride = n_ * n_ - 1;", WRONG),
    "buffer never given back": Mutant(
        "permute", PERMUTE, "            queue_.FreeTensor(part);\n", "", "AllocTensor: all 2 buffers"
    ),
    "taken from the queue before it is put in": Mutant(
        "permute", PERMUTE, "            queue_.EnQue(part);\n", "", "DeQue on .*, which is empty"
    ),
    "queue deeper than it is used": Mutant(
        "permute",
        PERMUTE,
        "TPosition::VECOUT, 1> queue_",
        "TPosition::VECOUT, 2> queue_",
        "has depth 2 and never holds",
    ),
    # ada_norm_modulate
    "squares summed before they are computed": Mutant(
        "ada",
        ADA,
        """(work, value, value, static_cast<int32_t>(count));
        AscendC::PipeBarrier<PIPE_V>();
""",
        "(work, value, value, static_cast<int32_t>(count));\n",
        RACE,
    ),
    "input buffer free too early": Mutant(
        "ada",
        ADA,
        """        AscendC::Cast(value, x, AscendC::RoundMode::CAST_NONE, count);
        xIn_.FreeTensor(x);
""",
        """        xIn_.FreeTensor(x);
        AscendC::Cast(value, x, AscendC::RoundMode::CAST_NONE, count);
""",
        RACE,
    ),
    "last channels misplaced": Mutant(
        "ada", ADA, "rest = row[full_ * LANES]", "rest = row[full_ * LANES + 1]", "not aligned to 32"
    ),
    "modulation of another batch item": Mutant("ada", ADA, "if (item != loaded)", "if (loaded == t_.batch)", WRONG),
    "mean over whole vectors only": Mutant(
        "ada", ADA, "static_cast<float>(t_.channels)", "static_cast<float>(full_ * LANES)", WRONG
    ),
    # qk_norm_rope
    "half not exchanged": Mutant(
        "qk", QK, "SubtractBlock(value[k], work[k + half]", "SubtractBlock(value[k], work[k]", WRONG
    ),
    "whole groups of heads left out": Mutant("qk", QK, "if (whole > 0)", "if (whole > 99)", WRONG),
    "settings in another order": Mutant("qk", QK, "numbers.GetValue(1 + axis)", "numbers.GetValue(3 - axis)", WRONG),
    "text over the last video row": Mutant(
        "qk", QK, "Place(b, j, t_.rows + row)", "Place(b, j, t_.rows - 1 + row)", f"{RACE}|never written"
    ),
    "weights kept for ever": Mutant("qk", QK, "            learnt_.FreeTensor(learnt);\n", "", "is never freed"),
    "offsets read while the scalar unit writes them": Mutant(
        "qk gather",
        QK,
        """        AscendC::SetFlag<AscendC::HardEvent::S_V>(event);
        AscendC::WaitFlag<AscendC::HardEvent::S_V>(event);
""",
        "        (void)event;\n",
        RACE,
    ),
    "flag raised and forgotten": Mutant(
        "qk gather",
        QK,
        "        AscendC::WaitFlag<AscendC::HardEvent::S_V>(event);\n",
        "",
        f"{RACE}|raised and never waited for",
    ),
    "flag id that does not exist": Mutant(
        "qk gather",
        QK,
        "const int32_t event = pipe_->FetchEventID(AscendC::HardEvent::S_V)",
        "const int32_t event = 8",
        "ids are 0 to 7",
    ),
    "statistics of more rows than a repeat counts": Mutant(
        "qk",
        QK,
        "AscendC::Sqrt(stat, stat, static_cast<int32_t>(heads));",
        "AscendC::Sqrt(stat, stat, static_cast<int32_t>(heads + 64));",
        "outside a tensor",
    ),
    # skiparse_attention
    "sum overtaken by the next product": Mutant(
        "forward", CUBE, "            AscendC::PipeBarrier<PIPE_M>();", "", RACE
    ),
    "two slots for a lead of two": Mutant("forward", UNITS, "SLOTS = 3", "SLOTS = 2", RACE),
    "scores read before they are there": Mutant(
        "forward", FORWARD, "        AscendC::CrossCoreWaitFlag(SCORES_READY);\n", "", f"{RACE}|{UNWRITTEN}"
    ),
    "weights never announced": Mutant(
        "forward", FORWARD, "        AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(WEIGHTS_READY);\n", "", "nobody can go on"
    ),
    "announced on the wrong pipe": Mutant(
        "forward", FORWARD, "<2, PIPE_MTE3>(WEIGHTS_READY)", "<2, PIPE_V>(WEIGHTS_READY)", RACE
    ),
    "announced sixteen times": Mutant(
        "forward",
        FORWARD,
        "        AscendC::CrossCoreSetFlag<2, PIPE_FIX>(SCORES_READY);\n",
        "for (int i = 0; i < 16; ++i) AscendC::CrossCoreSetFlag<2, PIPE_FIX>(SCORES_READY);\n",
        "raised 16 times ahead",
    ),
    "cross-core flag id of the runtime's own": Mutant(
        "forward", UNITS, "SCORES_READY = 0", "SCORES_READY = 11", "ids are 0 to 10"
    ),
    "stride of group skip in 16 bits": Mutant(
        "forward wide",
        CUBE,
        "else if constexpr (LOAD == 1)",
        "else if constexpr (LOAD >= 1)",
        "does not fit a field of 16 bits",
    ),
    "more scores than UB holds": Mutant(
        "forward device", FORWARD, "InitBuffer(scoresIn_, 2,", "InitBuffer(scoresIn_, 3,", "do not fit the 196352 of UB"
    ),
    "more chunks than L1 holds": Mutant(
        "forward device", CUBE, "InitBuffer(stream_, chunks", "InitBuffer(stream_, 4 + chunks", "of L1"
    ),
    "a third sum in L0C": Mutant("forward device", CUBE, "InitBuffer(sums_, 2,", "InitBuffer(sums_, 3,", "of L0C"),
    "one column too many": Mutant(
        "forward", UNITS, "unit_.stream - Column())", "unit_.stream - Column() + 1)", "outside a global tensor|" + WRONG
    ),
    "columns that fill up count": Mutant("forward", VECTOR, "EXCLUDED = -1e30f", "EXCLUDED = 0.0f", WRONG),
    "rescaled by another block's factor": Mutant(
        "forward",
        FORWARD,
        "SpreadRows(spread, rescale_[step.Slot() * HalfRows()]",
        "SpreadRows(spread, rescale_[0]",
        f"{WRONG}|{UNWRITTEN}",
    ),
    "mean before all parts are there": Mutant(
        "forward", FORWARD, "            AscendC::SyncAll();  // every", "            // every", f"{RACE}|{UNWRITTEN}"
    ),
    "rows of the wrong half": Mutant("forward", FORWARD, "first = unit.row + half.first;", "first = unit.row;", RACE),
    "scores overwritten while they are reduced": Mutant(
        "forward",
        FORWARD,
        """            AscendC::PipeBarrier<PIPE_V>();
            ReduceParts<false>(one_, parts, e);
""",
        "            ReduceParts<false>(one_, parts, e);\n",
        RACE,
    ),
    "sums of a pass added to another's": Mutant(
        "forward", FORWARD, "AddTotals(row - t_->passRows, before)", "AddTotals(row, before)", f"{WRONG}|{RACE}"
    ),
    "maxima not scaled": Mutant(
        "forward",
        FORWARD,
        "AscendC::Muls(negative_, raised_, -t_->scale, count);",
        "AscendC::Muls(negative_, raised_, -1.0f, count);",
        WRONG,
    ),
    "second half of a tile on the first": Mutant(
        "forward",
        CUBE,
        "LoadLeft(left[half], tile, t_->tileRows, half * t_->baseRows,",
        "LoadLeft(left[half], tile, t_->tileRows, 0,",
        WRONG,
    ),
    "a value of the block before": Mutant(
        "forward",
        CUBE,
        "chunks_[chunk / t_->baseRows] =",
        "chunks_[(chunk / t_->baseRows + 1) % CeilDiv(columns, t_->baseRows)] =",
        WRONG,
    ),
    "mixed up halves of weights": Mutant(
        "forward device",
        CUBE,
        "weights[static_cast<uint64_t>(half) *",
        "weights[static_cast<uint64_t>(1 - half) *",
        f"{WRONG}|{UNWRITTEN}",
    ),
    # skiparse_attention_grad
    "added before the sums are cleared": Mutant(
        "atomic", GRAD, "            AscendC::CrossCoreWaitFlag(MAY_ADD);\n", "", f"{RACE}|never waited for"
    ),
    "stored instead of added": Mutant(
        "atomic",
        CUBE,
        "        AscendC::SetAtomicAdd<float>();\n        for (uint32_t part",
        "        for (uint32_t part",
        RACE,
    ),
    "added to the first block's rows": Mutant(
        "atomic", CUBE, "(step.Column() + part) * t_->headDim", "(part) * t_->headDim", WRONG
    ),
    "sums of a unit begun anew with every block": Mutant(
        "deterministic", CUBE, "if (!step.First())", "if (t_ == nullptr)", f"{WRONG}|{RACE}"
    ),
    "added before the first block is stored": Mutant(
        "one half",
        CUBE,
        "                AscendC::PipeBarrier<PIPE_FIX>();  // the block before may have stored just now\n",
        "",
        RACE,
    ),
    "one slot for the sums of two units": Mutant("deterministic", UNITS, "UNIT_SLOTS = 2", "UNIT_SLOTS = 1", RACE),
    "weights freed before dQ is made of them": Mutant(
        "atomic",
        GRAD,
        "cube_.template AddProducts<true>(step",
        "cube_.template AddProducts<false>(step",
        "not from UB to L0A",
    ),
    "no event left for the library": Mutant(
        "atomic", GRAD_VECTORS, "InitBuffer(productsIn_, 1,", "InitBuffer(productsIn_, 3,", "more than 7 events V_MTE2"
    ),
    "text behind its length not cleared": Mutant(
        "atomic", GRAD_VECTORS, "            ClearText<KEYS_STAY>(units);\n", "", UNWRITTEN
    ),
    "delta forgotten": Mutant(
        "deterministic",
        GRAD_VECTORS,
        "ScaleAndAdd<!KEYS_STAY>(ds, scale_, delta, e);",
        "ScaleAndAdd<!KEYS_STAY>(ds, scale_, lse, e);",
        WRONG,
    ),
    "sums read before all cores are done": Mutant(
        "atomic",
        GRAD_VECTORS,
        "        AscendC::SyncAll();  // what other",
        "        // what other",
        f"{RACE}|{UNWRITTEN}",
    ),
    "tile of keys free before the scores are made": Mutant(
        "atomic",
        GRAD,
        "            cube_.FreeTile(tile_);\n            cube_.FreeTile(other_);\n",
        "            cube_.FreeTile(tile_);\n",
        "AllocTensor: all 2|is never freed",
    ),
    "loads overtake the wait": Mutant(
        "deterministic",
        GRAD_VECTORS,
        "        AscendC::CrossCoreWaitFlag(PRODUCTS_READY);\n",
        "",
        f"{RACE}|{UNWRITTEN}",
    ),
}


def _qk(dim, heads):
    grid, split = (4, 3, 2), split_v1_5(dim)
    x, text = draw("float16", (2, 24, heads, dim), (2, 5, heads, dim))
    weight, bias = (a.astype(np.float32) for a in draw("float16", (2, dim), (2, dim), seed=1))
    cos, sin = rope_table(grid, split)
    inputs = {"x": x, "text_x": text, "weight": weight, "bias": bias, "cos": cos, "sin": sin}
    numbers = {
        "batch": 2,
        "tokens": 24,
        "text": 5,
        "heads": heads,
        "dim": dim,
        "n": 2,
        "group": 1,
        "norm": 1,
        "rope": 1,
        "split_t": split[0],
        "split_y": split[1],
        "split_x": split[2],
        "eps": 1e-6,
        "brain": 0,
        "cores": 1,
    }
    return "qk_norm_rope", inputs, {"y": "float16"}, numbers


def _attention(name, grad, **changes):
    """The arguments that `Attention` would run the twin with."""
    attention, calls = Attention(name, "float16"), []
    forward, _ = attention.forward()
    original = twin.run
    twin.run = lambda *words, **numbers: calls.append((*words, numbers)) or ({}, {})
    try:
        attention.backward(forward, **changes) if grad else attention.forward(**changes)
    finally:
        twin.run = original
    return calls[0]


@cache
def case(name):
    """operator, inputs, outputs, numbers."""
    if name == "permute":
        x = np.random.RandomState(0).randint(1, 9, (2, 133, 16)).astype(np.int16)
        numbers = {
            "batch": 2,
            "tokens": 133,
            "row_bytes": 32,
            "n": 4,
            "group": 1,
            "inverse": 0,
            "cores": 1,
            "ub": 8192 + 2 * 32 * 10,
        }
        return "skiparse_permute", {"x": x}, {"y": "int16"}, numbers
    if name == "ada":
        x, branch = draw("float16", (2, 5, 208), (2, 5, 208))
        rows = draw("float16", *[(2, 1, 208)] * 3, (208,), (208,), seed=1)
        rows = dict(
            zip(("shift", "scale", "gate", "weight", "bias"), (a.astype(np.float32) for a in rows), strict=True)
        )
        numbers = {
            "batch": 2,
            "rows": 5,
            "channels": 208,
            "eps": 1e-6,
            "gated": 1,
            "normed": 1,
            "brain": 0,
            "cores": 1,
            "vectors": 1,
            "ub": 12000,
        }
        return "ada_norm_modulate", {"x": x, "branch": branch, **rows}, {"y": "float16", "h": "float16"}, numbers
    return {
        "qk": lambda: _qk(128, 2),
        "qk gather": lambda: _qk(64, 2),
        "forward": lambda: _attention("group 2, many blocks", False),
        "forward wide": lambda: _attention("group 8, stride beyond 16 bits", False),
        "forward device": lambda: _attention("group 2, device tiles", False),
        "one half": lambda: _attention("dense", True, deterministic=True),
        "atomic": lambda: _attention("group 2, many blocks", True, deterministic=False),
        "deterministic": lambda: _attention("group 2, many blocks", True, deterministic=True),
    }[name]()


@cache
def unpatched(name):
    operator, inputs, outputs, numbers = case(name)
    return twin.run(operator, inputs, outputs, **numbers)[0]


def patched(mutant):
    text = (twin.KERNELS / "op_kernel" / mutant.file).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.old!r} stands {text.count(mutant.old)} times in {mutant.file}"
    return {mutant.file: text.replace(mutant.old, mutant.new).encode()}


def outcome(mutant):
    operator, inputs, outputs, numbers = case(mutant.case)
    try:
        results, _ = twin.run(operator, inputs, outputs, patched=patched(mutant), **numbers)
    except twin.TwinError as error:
        return str(error)
    for name, right in unpatched(mutant.case).items():
        near = 0.02 * np.abs(right.astype(np.float32)).max()  # several times the rounding of a half
        if not (np.abs(results[name].astype(np.float32) - right.astype(np.float32)) <= near).all():
            return WRONG
    return "nothing"


@pytest.fixture(scope="module", autouse=True)
def compiled():
    twin.build_all()
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(lambda m: twin.program(case(m.case)[0], patched(m)), MUTANTS.values()))


@pytest.mark.parametrize("name", MUTANTS)
def test_noticed(name):
    unpatched(MUTANTS[name].case)  # passes
    assert re.search(MUTANTS[name].expected, outcome(MUTANTS[name])), outcome(MUTANTS[name])


def test_every_operator_has_mutants():
    assert {case(m.case)[0] for m in MUTANTS.values()} == set(twin.OPERATORS)
