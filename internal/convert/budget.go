package convert

import (
	"fmt"
	"sort"
)

// bandElements is about how many numbers are converted at a time: few enough that
// a dozen workers fit in the memory allowed, many enough that the journal of a model
// of a trillion weights has half a million lines.
const bandElements = 1 << 21

// cut is how a step's weight is cut into bands.
type cut struct{ rows, cols, per int64 }

// cut depends on shapes and types alone, never on memory or workers, so that the
// sums of the report, which run band by band, do not either.
func (s *step) cut() cut {
	n := s.weight.elements()
	if s.action == Dropped || n == 0 {
		return cut{}
	}
	if !s.matrix {
		return cut{rows: n, cols: 1, per: bandElements}
	}
	k := cut{rows: s.weight.shape[0], cols: s.weight.shape[1]}
	k.per = max(bandElements/k.cols/s.unit*s.unit, s.unit)
	if b := s.weight.block[0]; b > 0 && k.per%b != 0 {
		// A band that is a row of blocks makes each table once.
		if k.per = k.per / b * b; k.per == 0 {
			k.per = b
		}
		if k.per%s.unit != 0 {
			k.per *= s.unit
		}
	}
	k.per = min(k.per, k.rows)
	return k
}

// bands is how many there are.
func (k cut) bands() int64 {
	if k.per == 0 {
		return 0
	}
	return blocks(k.rows, k.per)
}

// budget is how a conversion's memory is spent.
type budget struct {
	first   []int64 // number of each step's first band; one more at the end
	workers int
	// peak is the most bytes of memory that the conversion takes.
	peak int64
}

const (
	// fixedMemory is the program itself, the buffers of digests, and slack.
	fixedMemory = 40 << 20
	// tensorMemory is what one tensor of the source costs in headers, steps and
	// reports, with what the collector has not yet taken back.
	tensorMemory = 3 << 10
)

// newBudget counts bands and takes as many workers as fit.
func newBudget(steps []step, o Options) (budget, error) {
	b := budget{first: make([]int64, len(steps)+1), workers: o.Workers}
	var largest int64
	var of string
	for i := range steps {
		k := steps[i].cut()
		b.first[i+1] = b.first[i] + k.bands()
		if k.per == 0 {
			continue
		}
		if n := steps[i].bandMemory(k); n > largest {
			largest, of = n, steps[i].weight.stored.Name
		}
	}
	fixed := fixedMemory + tensorMemory*int64(len(steps))
	for b.workers > 1 && fixed+int64(b.workers)*largest > o.Memory {
		b.workers--
	}
	b.peak = fixed + int64(b.workers)*largest
	if b.peak > o.Memory {
		return b, fmt.Errorf("%d bytes of memory are needed (%d for the names and places of %d tensors, %d for a band of %s), more than the %d allowed",
			b.peak, fixed, len(steps), largest, of, o.Memory)
	}
	return b, nil
}

// bands is how many there are in all.
func (b budget) bands() int64 { return b.first[len(b.first)-1] }

// step is the index of the step that a band belongs to.
func (b budget) step(band int64) int {
	return sort.Search(len(b.first)-1, func(i int) bool { return b.first[i+1] > band })
}
