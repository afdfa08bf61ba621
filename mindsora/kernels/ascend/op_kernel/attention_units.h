// The work of skiparse attention: which tile of rows stays on a core, and the blocks of rows that stream past it.
//
// A unit is a tile of rows of one (batch item, head, sub-sequence) that stays, and the rows it meets: queries meet keys
// (forward, gradient of the queries), or keys meet queries (gradient of keys and values). Rows that stream are numbered
// [visual rows | text rows] without a gap; tiles that stay hold either kind. Only real rows appear: padding is a count.
//
// Units go round robin over the cores in (batch, head, sub-sequence, tile) order, so cores in flight share one stream,
// in L2. Each starts at another block of it, lest all ask for the same address at once.
#ifndef MINDSORA_ATTENTION_UNITS_H
#define MINDSORA_ATTENTION_UNITS_H

#include "skiparse_attention_tiling.h"
#include "skiparse_rows.h"

namespace mindsora {

constexpr uint32_t SLOTS = 3;       // blocks between the cube core that is ahead and what it consumes
constexpr uint32_t UNIT_SLOTS = 2;  // units whose sums are being stored while those of the next are made

// Cross-core flags, mode 2: the cube core and its two vector cores.
constexpr uint16_t SCORES_READY = 0, WEIGHTS_READY = 1, PRODUCTS_READY = 2, MAY_ADD = 3;

// Elements of a tensor of `tokens` tokens, in any layout.
__aicore__ inline uint64_t Elements(const SkiparseAttentionTiling &t, uint32_t tokens)
{
    return static_cast<uint64_t>(t.batch) * tokens * t.heads * t.headDim;
}

struct Unit {
    uint32_t b, h, j;
    bool text;        // the tile holds text rows
    uint32_t row;     // first row, within the visual rows or within the text
    uint32_t rows;    // real rows of the tile
    uint32_t stored;  // rows of the tile, padding included
    uint32_t real;    // visual rows of the sub-sequence that are real
    uint32_t stream;  // rows that stream past
    uint32_t number;  // of the unit
};

class Units {
public:
    __aicore__ inline Units() {}

    // keysStay: tiles of keys stay and queries stream; otherwise the other way round.
    __aicore__ inline void Init(const SkiparseAttentionTiling &t, GM_ADDR textLengths, bool keysStay)
    {
        t_ = &t;
        keysStay_ = keysStay;
        rows_ = GroupRows(t.tokens, t.n, t.group != 0);
        lengths_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t *>(textLengths), t.batch);
    }

    __aicore__ inline const GroupRows &Rows() const { return rows_; }

    __aicore__ inline Unit At(uint32_t number) const
    {
        Unit unit;
        const uint32_t perGroup = t_->videoTiles + t_->textTiles, tile = number % perGroup, group = number / perGroup;
        unit.number = number;
        unit.j = group % t_->n;
        unit.h = group / t_->n % t_->heads;
        unit.b = group / (t_->n * t_->heads);
        unit.text = tile >= t_->videoTiles;
        unit.row = (unit.text ? tile - t_->videoTiles : tile) * t_->tileRows;
        unit.real = rows_.Real(unit.j);
        const uint32_t words = t_->textLen > 0 ? Min(lengths_.GetValue(unit.b), t_->textLen) : 0;
        const uint32_t textRows = keysStay_ ? words : t_->textLen;
        unit.rows = Min(Minus(unit.text ? textRows : unit.real, unit.row), t_->tileRows);
        unit.stored = Min((unit.text ? t_->textLen : t_->rows) - unit.row, t_->tileRows);
        unit.stream = unit.real + (keysStay_ ? t_->textLen : words);
        return unit;
    }

    // Elements from the start of a visual or text tensor to the first token of the unit's head.
    __aicore__ inline uint64_t Video(const Unit &u) const { return u.b * t_->batchStride + u.h * t_->headStride; }
    __aicore__ inline uint64_t Text(const Unit &u) const
    {
        return u.b * t_->textBatchStride + u.h * t_->textHeadStride;
    }

    // Row statistics of a (batch item, head, sub-sequence) stand as R visual rows and L text rows.
    __aicore__ inline uint64_t Statistics(const Unit &u) const
    {
        return ((static_cast<uint64_t>(u.b) * t_->heads + u.h) * t_->n + u.j) * (t_->rows + t_->textLen);
    }

    // The same for what exists for text rows only.
    __aicore__ inline uint64_t TextRows(const Unit &u) const
    {
        return ((static_cast<uint64_t>(u.b) * t_->heads + u.h) * t_->n + u.j) * t_->textLen;
    }

private:
    const SkiparseAttentionTiling *t_;
    bool keysStay_;
    GroupRows rows_;
    AscendC::GlobalTensor<int32_t> lengths_;
};

// All blocks of all units of one core, one after the other. Cube and vector cores walk the same list.
class Steps {
public:
    __aicore__ inline void Init(const SkiparseAttentionTiling &t, const Units &units, uint32_t core, uint32_t cores)
    {
        t_ = &t;
        units_ = &units;
        cores_ = cores;
        next_ = core;
        step_ = taken_ = 0;
        Advance();
    }

    __aicore__ inline bool Valid() const { return valid_; }
    __aicore__ inline const Unit &Now() const { return unit_; }
    __aicore__ inline uint32_t Slot() const { return step_ % SLOTS; }
    __aicore__ inline uint32_t UnitSlot() const { return taken_ % UNIT_SLOTS; }
    __aicore__ inline bool First() const { return index_ == 0; }
    __aicore__ inline bool Last() const { return index_ + 1 == blocks_; }
    __aicore__ inline uint32_t Column() const { return (index_ + unit_.number) % blocks_ * t_->blockColumns; }
    __aicore__ inline uint32_t Columns() const { return Min(t_->blockColumns, unit_.stream - Column()); }

    __aicore__ inline void Next()
    {
        ++step_;
        if (++index_ == blocks_) {
            Advance();
        }
    }

private:
    __aicore__ inline void Advance()
    {
        valid_ = false;
        index_ = 0;
        while (next_ < t_->tiles && !valid_) {
            unit_ = units_->At(next_);
            next_ += cores_;
            valid_ = unit_.rows > 0 && unit_.stream > 0;
        }
        if (valid_) {
            blocks_ = CeilDiv(unit_.stream, t_->blockColumns);
            ++taken_;
        }
    }

    const SkiparseAttentionTiling *t_;
    const Units *units_;
    Unit unit_;
    uint32_t cores_, next_, step_, index_, blocks_, taken_;  // taken_: units so far
    bool valid_;
};

}  // namespace mindsora

#endif
