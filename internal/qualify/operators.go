package qualify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"tarbert/internal/gate"
	"tarbert/internal/reference"
	"tarbert/internal/reference/oracle"
	"tarbert/internal/reference/trainer"
	"tarbert/internal/spec"
)

// Forward is the comparison of the logits.
type Forward struct {
	Positions int `json:"positions"`
	// Skipped positions lie where a choice of experts is so close that float32
	// may make it differently; a difference there proves nothing.
	Skipped    int     `json:"skipped"`
	Difference float64 `json:"difference"` // largest |Δ logit|
	Tolerance  float64 `json:"tolerance"`  // on Difference
	Spread     float64 `json:"spread"`     // standard deviation of the logits
}

// Backward is the comparison of the gradients.
type Backward struct {
	Directions []Direction `json:"directions"`
	Worst      string      `json:"worst"` // direction's name
	Error      float64     `json:"error"` // its relative error
	Tolerance  float64     `json:"tolerance"`
}

// Direction is one directional derivative, computed in two ways.
type Direction struct {
	Name string `json:"name"` // "all weights 1", "layer 2 experts"
	// Gradient is ⟨gradient, direction⟩ of the float32 backward pass, Slope the
	// central difference of the float64 loss.
	Gradient float64 `json:"gradient"`
	Slope    float64 `json:"slope"`
	// Error is |Gradient − Slope| over the larger of |Slope| and the root mean
	// square that ⟨gradient, direction⟩ has over random directions of this kind:
	// a direction that happens to lie across the gradient is held to what the
	// others are.
	Error float64 `json:"error"`
	Kink  bool    `json:"kink,omitempty"` // routing changed within the smallest step: not comparable
}

const (
	// logitTolerance is how far logits may be from float64, in units of their
	// own spread. Float32 rounding takes about a millionth.
	logitTolerance = 1e-4
	// firmMargin is the margin of expert choice above which float32 must choose
	// as float64 does.
	firmMargin = 1e-5
	// probeTokens is about how many tokens the operators are probed with: the
	// oracle is slow.
	probeTokens = 160
	// wholeDirections is how many random directions move all weights at once.
	wholeDirections = 3
)

// operators is the model at hand in both implementations.
type operators struct {
	model   *reference.Trainable
	oracle  *oracle.Model
	samples []reference.Sample
	seed    uint64
}

// newOperators takes the recipe's model and the first examples of its data.
func newOperators(r spec.Recipe) (*operators, error) {
	model, samples, err := trainer.Initial(r)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(r.Train.Model, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read the model: %w", err)
	}
	o, err := twinOracle(b, model)
	if err != nil {
		return nil, err
	}
	tokens := 0
	for i, s := range samples {
		if tokens += len(s.Tokens); tokens >= probeTokens {
			samples = samples[:i+1]
			break
		}
	}
	return &operators{model: model, oracle: o, samples: samples, seed: r.Seed}, nil
}

// twinOracle gives the oracle the model's weights.
func twinOracle(configJSON []byte, model *reference.Trainable) (*oracle.Model, error) {
	tensors := map[string]oracle.Tensor{}
	for _, p := range slices.Concat(model.Params(), model.RouterBias()) {
		t := oracle.Tensor{Shape: p.Shape, Data: make([]float64, len(p.Data))}
		for i, v := range p.Data {
			t.Data[i] = float64(v)
		}
		tensors[p.Name] = t
	}
	return oracle.New(configJSON, tensors)
}

// forward compares logits position by position.
func (o *operators) forward(ctx context.Context) (*Forward, gate.Check, error) {
	f := &Forward{}
	m := o.model.Inference()
	n, sum, squares := 0.0, 0.0, 0.0
	for _, s := range o.samples {
		got, err := m.Forward(ctx, []reference.Input{{Seq: m.NewSequence(), Tokens: s.Tokens, All: true}})
		if err != nil {
			return nil, gate.Check{}, err
		}
		want, err := o.oracle.Forward(s.Tokens)
		if err != nil {
			return nil, gate.Check{}, err
		}
		for t, row := range want.Logits {
			f.Positions++
			if want.Margin[t] < firmMargin {
				f.Skipped++
				continue
			}
			for i, l := range row {
				f.Difference = max(f.Difference, distance(float64(got[0][t][i]), l))
				n, sum, squares = n+1, sum+l, squares+l*l
			}
		}
	}
	if n > 0 {
		f.Spread = math.Sqrt(max(squares/n-sum/n*sum/n, 0))
	}
	f.Tolerance = logitTolerance * f.Spread
	return f, f.judge(), nil
}

// distance is |a−b|, and huge where it is not a number: JSON has no NaN.
func distance(a, b float64) float64 {
	if d := math.Abs(a - b); d <= math.MaxFloat64 {
		return d
	}
	return math.MaxFloat64
}

func (f *Forward) judge() gate.Check {
	c := gate.Check{Name: "forward", Verdict: gate.Pass}
	firm := f.Positions - f.Skipped
	c.Detail = fmt.Sprintf("largest difference of a logit from float64 %.2g, allowed %.2g, over %d positions", f.Difference, f.Tolerance, firm)
	switch {
	case 2*firm < f.Positions:
		c.Verdict = gate.Inconclusive
		c.Detail = fmt.Sprintf("experts are chosen too narrowly to compare at %d of %d positions", f.Skipped, f.Positions)
	case f.Difference > f.Tolerance:
		c.Verdict = gate.Fail
	}
	return c
}

// backward compares directional derivatives of the loss.
func (o *operators) backward(ctx context.Context, tolerance float64, threads int) (*Backward, gate.Check, error) {
	batch, err := o.firmSamples()
	if err != nil {
		return nil, gate.Check{}, err
	}
	if len(batch) == 0 {
		return nil, gate.Check{Name: "backward", Verdict: gate.Inconclusive, Detail: "experts are chosen too narrowly to compare on any of the examples"}, nil
	}
	o.model.ZeroGrad()
	if _, err := o.model.ForwardBackward(ctx, batch, trainer.MeanLoss(batch)); err != nil {
		return nil, gate.Check{}, err
	}
	b, err := o.compareGradient(ctx, batch, threads)
	if err != nil {
		return nil, gate.Check{}, err
	}
	b.Tolerance = tolerance
	return b, b.judge(), nil
}

// compareGradient holds the gradient that the model has now to the oracle's
// loss on the batch.
func (o *operators) compareGradient(ctx context.Context, batch []reference.Sample, threads int) (*Backward, error) {
	examples := make([]oracle.Example, len(batch))
	for i, s := range batch {
		examples[i] = oracle.Example{Tokens: s.Tokens, Mask: s.Mask}
	}
	groups := groupsOf(o.model.Params())
	b := &Backward{Directions: make([]Direction, len(groups))}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(max(threads, 1))
	for i, g := range groups {
		work.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			d, err := o.direction(g, examples, uint64(i))
			b.Directions[i] = d
			return err
		})
	}
	return b, work.Wait()
}

// firmSamples are the probe's samples whose routing float32 cannot mistake.
func (o *operators) firmSamples() ([]reference.Sample, error) {
	var firm []reference.Sample
	for _, s := range o.samples {
		p, err := o.oracle.Forward(s.Tokens)
		if err != nil {
			return nil, err
		}
		if p.Margin[len(s.Tokens)-1] >= firmMargin {
			firm = append(firm, s)
		}
	}
	return firm, nil
}

// group is a set of parameters that a direction moves.
type group struct {
	name   string
	params []reference.Param
}

// groupsOf sorts parameters by layer and part, behind a few groups of all of
// them. A fault in one part's gradient is a hundredth of the whole and all of its
// group.
func groupsOf(params []reference.Param) []group {
	var groups []group
	for i := range wholeDirections {
		groups = append(groups, group{fmt.Sprintf("all weights %d", i+1), params})
	}
	for _, p := range params {
		name := groupName(p.Name)
		at := slices.IndexFunc(groups, func(g group) bool { return g.name == name })
		if at < 0 {
			at = len(groups)
			groups = append(groups, group{name: name})
		}
		groups[at].params = append(groups[at].params, p)
	}
	return groups
}

// groupName maps "model.layers.2.mlp.experts.5.up_proj.weight" to "layer 2
// experts".
func groupName(param string) string {
	parts := strings.Split(param, ".")
	if len(parts) < 5 || parts[1] != "layers" {
		if strings.Contains(param, "embed") {
			return "embeddings"
		}
		return "head and last norm"
	}
	layer, rest := "layer "+parts[2], strings.Join(parts[3:], ".")
	switch {
	case strings.HasSuffix(rest, "norm.weight"):
		return layer + " norms"
	case strings.HasPrefix(rest, "self_attn."):
		return layer + " attention"
	case strings.HasPrefix(rest, "mlp.gate."):
		return layer + " router"
	case strings.HasPrefix(rest, "mlp.experts."):
		return layer + " experts"
	}
	return layer + " mlp"
}

// direction draws a random direction, each tensor's part in proportion to the
// tensor's own size, and measures the loss's derivative along it both ways.
func (o *operators) direction(g group, batch []oracle.Example, stream uint64) (Direction, error) {
	r := rand.New(rand.NewPCG(o.seed, stream))
	move := map[string][]float64{}
	d := Direction{Name: g.name}
	variance := 0.0
	for _, p := range g.params {
		size := rms(p.Data)
		v := make([]float64, len(p.Data))
		for i := range v {
			v[i] = size * r.NormFloat64()
			grad := float64(p.Grad[i])
			d.Gradient += v[i] * grad
			variance += size * size * grad * grad
		}
		move[p.Name] = v
	}
	s, err := o.oracle.Slope(batch, move, 1e-4)
	if errors.Is(err, oracle.ErrKink) {
		d.Kink, d.Gradient = true, 0
		return d, nil
	}
	if err != nil {
		return Direction{}, err
	}
	d.Slope = s.Value
	if scale := max(math.Abs(d.Slope), math.Sqrt(variance)); scale > 0 {
		d.Error = distance(d.Gradient, d.Slope) / scale
	}
	if !(math.Abs(d.Gradient) <= math.MaxFloat64) { // a gradient of NaN fails, and JSON must hold it
		d.Gradient, d.Error = math.MaxFloat64, math.MaxFloat64
	}
	return d, nil
}

// rms is a tensor's root mean square, 0.01 for one that is all zero.
func rms(x []float32) float64 {
	sum := 0.0
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	if sum == 0 {
		return 0.01
	}
	return math.Sqrt(sum / float64(len(x)))
}

func (b *Backward) judge() gate.Check {
	c := gate.Check{Name: "backward", Verdict: gate.Pass}
	kinks := 0
	for _, d := range b.Directions {
		if d.Kink {
			kinks++
		} else if d.Error >= b.Error {
			b.Worst, b.Error = d.Name, d.Error
		}
	}
	c.Detail = fmt.Sprintf("largest relative error of a directional derivative %.2g (%s), allowed %.2g, over %d directions",
		b.Error, b.Worst, b.Tolerance, len(b.Directions)-kinks)
	switch {
	case b.Error > b.Tolerance:
		c.Verdict = gate.Fail
	case kinks > 0:
		c.Verdict = gate.Inconclusive
		c.Detail += fmt.Sprintf("; %d could not be measured, for the choice of experts changes too close by", kinks)
	}
	return c
}
