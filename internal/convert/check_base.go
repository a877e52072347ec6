package convert

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
)

// ChangedTensor is how much of one weight's fine-tune a conversion kept.
type ChangedTensor struct {
	Name string `json:"name"`
	// Trained is |source - base| as a share of |base|, Converted the same of the
	// converted weight; both are Euclidean norms.
	Trained   float64 `json:"trained"`
	Converted float64 `json:"converted"`
	// Kept is the part of the trained change that is in the converted weight: the
	// projection of its change on the trained one. 1 is all of it; rounding noise,
	// which points nowhere, does not count.
	Kept float64 `json:"kept"`
}

// BaseReport answers whether the converted model still differs from the one that it
// was fine-tuned from as much as the trained model did.
type BaseReport struct {
	Base    string          `json:"base"`
	Changed int             `json:"changed"` // weights that training changed
	Same    int             `json:"same"`
	Trained float64         `json:"trained"` // of all weights together, as in ChangedTensor
	Kept    float64         `json:"kept"`
	Worst   []ChangedTensor `json:"worst,omitempty"` // those that kept least, at most ten
}

// leastKept is how much of the trained change must be left, of all weights together.
const leastKept = 0.9

// based: the fine-tune is still there. A change that is smaller than half a step of
// the new type everywhere is rounded away, and nothing but this notices.
func (c *checker) based(ctx context.Context) error {
	d, weights, _, _, err := openWeights(c.options.Base)
	if err != nil {
		return fmt.Errorf("base %s: %w", c.options.Base, err)
	}
	defer d.Close()
	byName := make(map[string]*weight, len(weights))
	for _, w := range weights {
		byName[w.name] = w
	}
	sums := make([]change, len(c.pairs))
	err = inOrder(ctx, len(c.pairs), c.options.Workers, func(i int) error {
		p := c.pairs[i]
		b := byName[p.from.name]
		if b == nil || !slices.Equal(b.shape, p.from.shape) {
			return fmt.Errorf("base %s: no tensor %q of shape %v: it is not what the source was trained from", c.options.Base, p.from.name, p.from.shape)
		}
		return c.changeOf(ctx, p, sourceView(d, b), &sums[i])
	})
	if err != nil {
		return err
	}
	r := c.sumUp(sums)
	c.report.Base = r
	if r.Changed > 0 && r.Kept < leastKept {
		return violation("", r.Worst[0].Name, "of what training changed, %.1f %% is left after the conversion (in this tensor %.1f %%): rounding to the new type took the rest",
			100*r.Kept, 100*r.Worst[0].Kept)
	}
	return nil
}

// change holds Σ base², Σ (source-base)², Σ (converted-base)² and the product of the two.
type change struct{ base, trained, converted, both float64 }

func (s *change) add(o change) {
	s.base += o.base
	s.trained += o.trained
	s.converted += o.converted
	s.both += o.both
}

func (c *checker) changeOf(ctx context.Context, p pair, base *view, s *change) error {
	if _, err := decoderOf(p.from.stored.DType); err != nil {
		return nil // integers do not train
	}
	from, to := c.views(p)
	for first := int64(0); first < from.rows && from.cols > 0; first += from.per() {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(from.per(), from.rows-first)
		b, err := base.read(first, n)
		if err != nil {
			return err
		}
		w, err := from.read(first, n)
		if err != nil {
			return err
		}
		x, err := to.read(first, n)
		if err != nil {
			return err
		}
		for i := range b {
			dw, dx := w[i]-b[i], x[i]-b[i]
			s.base += float64(b[i] * b[i])
			s.trained += float64(dw * dw)
			s.converted += float64(dx * dx)
			s.both += float64(dw * dx)
		}
	}
	return nil
}

func (c *checker) sumUp(sums []change) *BaseReport {
	r := &BaseReport{Base: c.options.Base}
	var all change
	for i, s := range sums {
		all.add(s)
		if s.trained == 0 {
			r.Same++
			continue
		}
		r.Changed++
		r.Worst = append(r.Worst, ChangedTensor{Name: c.pairs[i].from.stored.Name, Trained: share(s.trained, s.base),
			Converted: share(s.converted, s.base), Kept: s.both / s.trained})
	}
	slices.SortStableFunc(r.Worst, func(a, b ChangedTensor) int { return cmp.Compare(a.Kept, b.Kept) })
	r.Worst = r.Worst[:min(10, len(r.Worst))]
	r.Trained, r.Kept = share(all.trained, all.base), 1
	if all.trained > 0 {
		r.Kept = all.both / all.trained
	}
	return r
}

// share is the ratio of two norms from their squares; 0 where there is no whole.
func share(part, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return math.Sqrt(part / whole)
}
