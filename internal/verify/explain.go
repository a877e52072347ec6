package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tarbert/internal/engine"
	"tarbert/internal/reference"
)

// ExplainInput names two model directories of one architecture.
type ExplainInput struct {
	Reference, Candidate string
	Prompts              [][]int
	From                 []int // as Input's
	WorkDir              string
	Threads              int
	// Progress, if set, is told of each experiment, by number and name.
	Progress func(tried int, what string)
}

// Explanation is which parts of the candidate's files, replaced by the
// reference's, close the gap between the two.
type Explanation struct {
	Gap float64 `json:"gap"` // mean KL of the candidate's files, computed in float32, nats
	// Steps are the experiments that helped, in order; each keeps the earlier ones.
	Steps []Experiment `json:"steps"`
	Tried int          `json:"tried"`
	// Named are the tensors or config fields to blame.
	Named []string `json:"named"`
	Text  string   `json:"text"`
}

// Experiment is one replacement.
type Experiment struct {
	What   string  `json:"what"`
	KL     float64 `json:"kl"`     // that is left
	Closed float64 `json:"closed"` // share of the gap, so far
}

const (
	closedEnough = 0.9
	mostSteps    = 6
	// leastGap: files that are this close do not explain a failed verification.
	leastGap = 1e-6
)

// Explain compares the directories themselves: both computed by the reference
// model in float32, with quantised weights widened, so that neither engine nor
// activation quantisation has a part in it. It restores the config, then whole
// layers, then in those the modules and experts, then single tensors, each
// time keeping what closes most of the gap.
func Explain(ctx context.Context, in ExplainInput) (*Explanation, error) {
	if len(in.Prompts) == 0 {
		return nil, errors.New("explain: no prompts")
	}
	x := &explainer{in: in, out: &Explanation{}}
	var err error
	if x.ref, err = readFloats(in.Reference); err != nil {
		return nil, fmt.Errorf("explain: reference: %w", err)
	}
	if x.cand, err = readFloats(in.Candidate); err != nil {
		return nil, fmt.Errorf("explain: candidate: %w", err)
	}
	if err := x.ref.comparable(x.cand); err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	if x.want, err = x.score(ctx, x.ref); err != nil {
		return nil, fmt.Errorf("explain: reference: %w", err)
	}
	if x.out.Gap, err = x.gap(ctx, x.cand); err != nil {
		return nil, fmt.Errorf("explain: candidate: %w", err)
	}
	if x.out.Gap <= leastGap {
		x.out.Text = fmt.Sprintf("the files agree (%.2g nats): look at the engine, its flags and the precision of activations and cache", x.out.Gap)
		return x.out, nil
	}
	if err := x.narrow(ctx); err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	x.say()
	return x.out, nil
}

type explainer struct {
	in        ExplainInput
	ref, cand *floats
	want      [][]engine.Position
	out       *Explanation
	trying    string
	base      float64 // what honest rounding leaves
}

// narrow goes from coarse groups to single tensors.
func (x *explainer) narrow(ctx context.Context) error {
	now := x.cand.clone()
	left := x.out.Gap
	if fields := x.ref.configDiff(x.cand); len(fields) > 0 {
		trial := now.clone()
		trial.config = x.ref.config
		kl, err := x.gap(ctx, trial)
		// A config that cannot be loaded with the candidate's tensors explains nothing.
		if err == nil && kl < left/2 {
			now, left = trial, kl
			x.step("config.json: "+strings.Join(fields, ", "), kl)
			for _, f := range fields {
				x.out.Named = append(x.out.Named, "config.json "+f)
			}
		}
	}
	scope, coarse, err := x.suspects(ctx, now, left)
	if err != nil {
		return err
	}
	for _, group := range []func(string) string{layerOf, moduleOf, func(name string) string { return name }} {
		if x.closed(left) >= closedEnough {
			return nil // the config was all
		}
		steps := len(x.out.Steps)
		chosen, rest, err := x.restore(ctx, now, scope, group)
		if err != nil {
			return err
		}
		if len(chosen) == 0 {
			return nil
		}
		if coarse > 0 && x.closed(rest) < coarse-0.1 {
			x.out.Steps = x.out.Steps[:steps] // only together do they help: the finer groups say less
			break
		}
		scope, coarse = chosen, x.closed(rest)
	}
	return x.confirm(ctx, now, scope)
}

// outlying is how many times farther from the reference's than the median a
// tensor is that rounding alone cannot have changed.
const outlying = 5

// suspects are the tensors worth trying. Where a conversion has rounded every
// tensor a little, those that are much farther off than most stand out by their
// weights alone; if restoring them helps, the search is among them, and what is
// then left is the conversion's own.
func (x *explainer) suspects(ctx context.Context, now *floats, left float64) (scope []string, coarse float64, err error) {
	all := slices.Sorted(maps.Keys(x.ref.tensors))
	var off []float64
	distance := map[string]float64{}
	for _, name := range all {
		if d := relativeDistance(x.ref.tensors[name], now.tensors[name]); d > 0 {
			distance[name], off = d, append(off, d)
		}
	}
	if len(off) < 4 {
		return all, 0, nil
	}
	slices.Sort(off)
	for _, name := range all {
		if distance[name] > outlying*off[len(off)/2] {
			scope = append(scope, name)
		}
	}
	if len(scope) == 0 || len(scope) > len(off)/4 {
		return all, 0, nil
	}
	x.trying = "every tensor that stands out"
	kl, err := x.gap(ctx, now.with(x.ref, scope))
	if err != nil || kl > 0.8*left {
		return all, 0, err
	}
	x.base = min(kl, left/2)
	x.out.Steps = append(x.out.Steps, Experiment{fmt.Sprintf("%d tensors that are over %d× farther off than the median", len(scope), outlying), kl, x.closed(kl)})
	return scope, 0, nil
}

// relativeDistance is ‖a−b‖ over ‖a‖.
func relativeDistance(a, b []float32) float64 {
	var d, n float64
	for i := range a {
		e := float64(a[i]) - float64(b[i])
		d, n = d+e*e, n+float64(a[i])*float64(a[i])
	}
	if n == 0 {
		n = 1
	}
	return math.Sqrt(d / n)
}

// restore finds, greedily, the groups of scope whose restoration closes the
// gap, and returns their tensors and what is left. What is restored is not kept in now: a finer
// grouping looks inside it.
func (x *explainer) restore(ctx context.Context, now *floats, scope []string, group func(string) string) (chosen []string, left float64, err error) {
	members := map[string][]string{}
	for _, name := range scope {
		if !slices.Equal(now.tensors[name], x.ref.tensors[name]) {
			members[group(name)] = append(members[group(name)], name)
		}
	}
	trial := now.clone()
	left = math.Inf(1)
	for range mostSteps {
		best, bestKL := "", left
		for _, g := range slices.Sorted(maps.Keys(members)) {
			x.trying = g
			kl, err := x.gap(ctx, trial.with(x.ref, members[g]))
			if err != nil {
				return nil, 0, err
			}
			if kl < bestKL {
				best, bestKL = g, kl
			}
		}
		if best == "" || (len(chosen) > 0 && bestKL > 0.7*left) {
			break // nothing more that matters
		}
		trial, left = trial.with(x.ref, members[best]), bestKL
		chosen = append(chosen, members[best]...)
		x.step(best, left)
		if delete(members, best); x.closed(left) >= closedEnough {
			break
		}
	}
	return chosen, left, nil
}

// confirm names the tensors of the last round if they do close the gap.
func (x *explainer) confirm(ctx context.Context, now *floats, names []string) error {
	kl, err := x.gap(ctx, now.with(x.ref, names))
	if err != nil {
		return err
	}
	if x.closed(kl) >= 0.5 {
		x.out.Named = append(x.out.Named, names...)
	}
	return nil
}

func (x *explainer) step(what string, kl float64) {
	x.out.Steps = append(x.out.Steps, Experiment{what, kl, x.closed(kl)})
}

// closed is the share of the gap that is gone, of what can be closed at all.
func (x *explainer) closed(kl float64) float64 { return (x.out.Gap - kl) / (x.out.Gap - x.base) }

func (x *explainer) say() {
	if len(x.out.Named) == 0 {
		x.out.Text = fmt.Sprintf("no single part explains the %.2g nats between the files: the whole checkpoint differs (another step, another quantisation)", x.out.Gap)
		return
	}
	last := x.out.Steps[len(x.out.Steps)-1]
	of := ""
	if x.base > 0 {
		of = fmt.Sprintf(" above the %.2g that its conversion's rounding leaves", x.base)
	}
	x.out.Text = fmt.Sprintf("%s: with the reference's in its place, %.1f %% of the gap of %.2g nats%s is closed (%d experiments)",
		strings.Join(x.out.Named, ", "), 100*last.Closed, x.out.Gap, of, x.out.Tried)
}

// gap is the mean divergence of a model from the reference on the judged positions.
func (x *explainer) gap(ctx context.Context, f *floats) (float64, error) {
	x.out.Tried++
	if x.in.Progress != nil {
		x.in.Progress(x.out.Tried, x.trying)
	}
	got, err := x.score(ctx, f)
	if err != nil {
		return 0, err
	}
	var kls []float64
	for i, p := range got {
		from := 1
		if x.in.From != nil {
			from = x.in.From[i]
		}
		for t := from; t < len(p); t++ {
			kls = append(kls, lowerKL(x.want[i][t], p[t]))
		}
	}
	return mean(kls), nil
}

func (x *explainer) score(ctx context.Context, f *floats) ([][]engine.Position, error) {
	dir, err := os.MkdirTemp(x.in.WorkDir, "explain-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // a leftover is only disk space
	if err := f.write(dir); err != nil {
		return nil, err
	}
	m, err := reference.Load(dir, reference.Options{Precision: reference.F32, Threads: x.in.Threads})
	if err != nil {
		return nil, err
	}
	const top = 20
	out := make([][]engine.Position, len(x.in.Prompts))
	for i, p := range x.in.Prompts {
		got, err := m.Score(ctx, p, top)
		if err != nil {
			return nil, fmt.Errorf("prompt %d: %w", i, err)
		}
		out[i] = make([]engine.Position, len(p))
		for t := 1; t < len(p); t++ {
			out[i][t] = engine.Position{Token: p[t], LogProb: min(got[t].LogProb, 0)}
			for _, e := range got[t].Top {
				out[i][t].Top = append(out[i][t].Top, engine.TokenLogProb{Token: e.Token, LogProb: min(e.LogProb, 0)})
			}
		}
	}
	return out, nil
}

// layerOf and moduleOf group tensors by their Hugging Face names.
func layerOf(name string) string {
	parts := strings.Split(name, ".")
	if len(parts) > 3 && parts[1] == "layers" {
		return strings.Join(parts[:3], ".")
	}
	return name
}

func moduleOf(name string) string {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		if p == "experts" && i+1 < len(parts) {
			return strings.Join(parts[:i+2], ".")
		}
	}
	if len(parts) > 4 && parts[1] == "layers" {
		return strings.Join(parts[:4], ".")
	}
	return filepath.Base(name)
}
