package verify

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"tarbert/internal/engine"
	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/spec"
)

// Scorer gives teacher-forced log-probabilities; *engine.Client is one.
type Scorer interface {
	Score(ctx context.Context, prompts [][]int, k int) ([][]engine.Position, error)
}

// Stack says what answers, for the evidence and the certificate.
type Stack struct {
	Name      string `json:"name"` // "f32", "w8a8-ascend"
	Engine    string `json:"engine,omitempty"`
	Version   string `json:"version,omitempty"`
	Precision string `json:"precision,omitempty"`
	Format    string `json:"format,omitempty"`
	Device    string `json:"device,omitempty"`
	Digest    string `json:"digest,omitempty"` // of the model directory
	URL       string `json:"url,omitempty"`
	// Gateway stands before it; Path is how its numbers were had; Root is where
	// its weights are and Flags its settings, in its own words.
	Gateway string            `json:"gateway,omitempty"`
	Path    string            `json:"path,omitempty"`
	Root    string            `json:"root,omitempty"`
	Flags   map[string]string `json:"flags,omitempty"`
}

// Side is one deployment.
type Side struct {
	Stack  Stack
	Scorer Scorer
	// Generator and Prober serve the decode path and the contract; left out,
	// the Scorer is used where it is one.
	Generator Generator
	Prober    Prober
}

// Input of a verification.
type Input struct {
	Reference Side
	Candidate Side
	// Floor is the reference once more in another arithmetic. Without a Scorer
	// there is no floor, and only the absolute margins apply.
	Floor   Side
	Prompts [][]int // token ids, at least two each
	// From, if set, gives each prompt's first position that is judged: where
	// the text that the reference wrote begins. What people typed in before it
	// is scored too, but a model need not have learned to predict it, and its
	// log-probabilities there are arbitrary. nil = from position 1.
	From []int
	// Limits are the most tokens that the reference was asked to write after
	// From; nil = Reverse.MaxTokens of each.
	Limits []int
	Spec   spec.Verify
	// Typical is the margin on the typical ratio to the floor (Report.Typical);
	// 0 = Spec.Margin.Ratio.
	Typical float64
	Seed    uint64
	OutDir  string // must exist; gets EvidenceFile
	// Vocab, if known, is the size of the vocabulary.
	Vocab int

	// What follows is more than the one prefill comparison, each left out when zero.

	// Probe, if it has a prompt, holds both endpoints to the contract first.
	Probe ProbeOptions
	// Sequential takes the prompts in a random order (of Seed) and stops as
	// soon as the verdict is certain.
	Sequential bool
	// Strata names the kind of each prompt; nil = none. With it, a single
	// stratum that is off fails the verification.
	Strata  []string
	Decode  DecodeOptions
	Reverse ReverseOptions
	Load    LoadOptions
	Repeat  RepeatOptions
	// Scope says what was left out, and why, before the run began.
	Scope []string
	// Journal, if set, counts what each part took.
	Journal *Journal

	first scored // what the floors' repeats have scored already

	Now      func() time.Time
	Progress progress.Func
	// PerPart: progress names each part ("prefill", "decode", …) as its stage.
	PerPart bool
}

// EvidenceFile is the name of the evidence in OutDir.
const EvidenceFile = "verify-evidence.json"

// chunk is how many prompts are asked for before progress is told.
const chunk = 8

// Run scores every prompt on all sides and judges. An endpoint that fails or
// lies makes the verdict inconclusive and is in the report; the error is for
// bad input, the context's end and a disk that refuses the evidence.
func Run(ctx context.Context, in Input) (*Report, error) {
	if err := in.check(); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	now := in.Now
	if now == nil {
		now = time.Now
	}
	began := now()
	ev := newEvidence(in)
	if in.Sequential {
		in.shuffle()
	}
	in.first = scored{}
	if err := collectAll(ctx, in, ev); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
		ev.Failure = err.Error()
	}
	ev.Seconds = now().Sub(began).Seconds()
	return in.conclude(ev)
}

// Unanswered is the report of a run that could not begin: a side that is not
// there, or gives no numbers. It decides nothing, and says why.
func Unanswered(in Input, reason error) (*Report, error) {
	ev := newEvidence(in)
	ev.Failure, ev.Asked = reason.Error(), 0
	return in.conclude(ev)
}

// conclude judges, and writes the evidence with its report.
func (in Input) conclude(ev *Evidence) (*Report, error) {
	ev.Cost = in.Journal.Costs()
	r := judge(ev)
	ev.Report, ev.Judge = r, judgeVersion
	path, err := filepath.Abs(filepath.Join(in.OutDir, EvidenceFile))
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if err := ev.write(path); err != nil {
		return nil, fmt.Errorf("verify: write evidence: %w", err)
	}
	r.Evidence = path
	return r, nil
}

func (in *Input) check() error {
	switch {
	case in.Reference.Scorer == nil || in.Candidate.Scorer == nil:
		return errors.New("a reference and a candidate are needed")
	case len(in.Prompts) == 0:
		return errors.New("no prompts")
	case in.Spec.Top < 1:
		return fmt.Errorf("verify.top is %d: the number of likeliest tokens compared must be at least 1", in.Spec.Top)
	case !(in.Spec.Margin.Clip > 0):
		return fmt.Errorf("verify.margin.clip is %g: it must be above 0", in.Spec.Margin.Clip)
	}
	if in.From != nil && len(in.From) != len(in.Prompts) {
		return fmt.Errorf("%d starts for %d prompts", len(in.From), len(in.Prompts))
	}
	if in.Limits != nil && len(in.Limits) != len(in.Prompts) {
		return fmt.Errorf("%d limits for %d prompts", len(in.Limits), len(in.Prompts))
	}
	if in.Strata != nil && len(in.Strata) != len(in.Prompts) {
		return fmt.Errorf("%d strata for %d prompts", len(in.Strata), len(in.Prompts))
	}
	for i, p := range in.Prompts {
		if len(p) < 2 {
			return fmt.Errorf("prompt %d has %d tokens: at least 2 are needed to score one", i, len(p))
		}
		if from := in.from(i); from < 1 || from > len(p) {
			return fmt.Errorf("prompt %d of %d tokens is judged from position %d: must be 1 to its length", i, len(p), from)
		}
	}
	return nil
}

// families counts what shares the chance of a false fail.
func (in *Input) families() int {
	n := 1
	if in.Strata != nil {
		n++
	}
	if in.Decode.Prompts > 0 {
		n++
	}
	if in.Reverse.Prompts > 0 {
		n++
	}
	if in.Load.Prompts > 0 {
		if n += len(in.Load.Replicas); in.Load.At != nil {
			n += len(in.Load.levels())
			if in.Load.Saturate {
				n += bits.Len(uint(in.Load.Prompts)) // each doubles the one before
			}
		}
	}
	return n
}

func (in *Input) from(i int) int {
	if in.From == nil {
		return 1
	}
	return in.From[i]
}

// shuffle puts the prompts into a random order, so that each is a fresh draw.
func (in *Input) shuffle() {
	r := rand.New(rand.NewPCG(in.Seed, 0x6f72646572))
	order := r.Perm(len(in.Prompts))
	in.Prompts, in.From = permuted(in.Prompts, order), permuted(in.From, order)
	in.Strata, in.Limits = permuted(in.Strata, order), permuted(in.Limits, order)
}

// permuted is x in another order; nil stays nil.
func permuted[T any](x []T, order []int) []T {
	if x == nil {
		return nil
	}
	out := make([]T, len(order))
	for i, j := range order {
		out[i] = x[j]
	}
	return out
}

// collectAll runs the parts that are asked for. A later part is not begun when
// an earlier one could not be finished or, in a sequential run, failed.
func collectAll(ctx context.Context, in Input, ev *Evidence) error {
	if len(in.Probe.Prompt) > 0 {
		in.Journal.Stage("contract")
		c, err := collectContract(ctx, in)
		if ev.Contract = c; err != nil {
			return fmt.Errorf("contract: %w", err)
		}
		if meaningless(c.Checks) {
			return nil // numbers that mean nothing are not collected
		}
	}
	if in.Repeat.Prompts > 0 {
		in.Journal.Stage("floor")
		if err := collectFloors(ctx, in, ev); err != nil {
			return fmt.Errorf("floor: %w", err)
		}
	}
	in.Journal.Stage("prefill")
	if err := collect(ctx, in, ev); err != nil {
		return err
	}
	if in.Sequential && ev.failed() {
		return nil // what else was asked cannot change the verdict
	}
	if in.Decode.Prompts > 0 {
		in.Journal.Stage("decode")
		part := ev.part("decode", ev.Reference, ev.Candidate)
		if err := collectDecode(ctx, in, part); err != nil {
			return fmt.Errorf("decode: %w", err)
		}
		if ev.Parts = append(ev.Parts, part); in.Sequential && part.failed() {
			return nil
		}
	}
	if in.Reverse.Prompts > 0 {
		in.Journal.Stage("reverse")
		rev, err := collectReverse(ctx, in, ev)
		if err != nil {
			return fmt.Errorf("reverse: %w", err)
		}
		if ev.Reverse = rev; in.Sequential && ev.reverseFailed() {
			return nil
		}
	}
	if in.Load.Prompts > 0 {
		in.Journal.Stage("load")
		parts, err := collectLoad(ctx, in, ev)
		if err != nil {
			return fmt.Errorf("load: %w", err)
		}
		ev.Parts = append(ev.Parts, parts...)
	}
	return nil
}

// failed says that the bets on what was collected, or on one stratum of it, fail it.
func (ev *Evidence) failed() bool {
	return decide(ev).Verdict == gate.Fail || ev.Strata && strataCheck(strata(ev)).Verdict == gate.Fail
}

func collectContract(ctx context.Context, in Input) (*Contract, error) {
	if in.Probe.Top == 0 {
		in.Probe.Top = in.Spec.Top
	}
	c := &Contract{}
	for _, s := range []struct {
		name string
		side Side
		into *Observed
	}{{"reference", in.Reference, &c.Reference}, {"candidate", in.Candidate, &c.Candidate}} {
		p := s.side.Prober
		if p == nil {
			p, _ = s.side.Scorer.(Prober)
		}
		if p == nil {
			return nil, fmt.Errorf("%s cannot be probed", s.name)
		}
		in.report("contract", 0, 0, "", "asking the "+s.name)
		var err error
		if *s.into, err = Observe(ctx, p, in.Probe); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	c.Checks = CheckContract(c.Reference, c.Candidate)
	return c, nil
}

// collect fills ev with every prompt that all sides answered, and stops at the
// first that one did not.
func collect(ctx context.Context, in Input, ev *Evidence) error {
	sides := []Side{in.Reference, in.Candidate}
	names := []string{"reference", "candidate", "floor"}
	if floor, name, ok := in.floorSide(ev); ok {
		sides, names[2] = append(sides, floor), name
		ev.Floor = &floor.Stack
	}
	for from := 0; from < len(in.Prompts); from += chunk {
		prompts := in.Prompts[from:min(from+chunk, len(in.Prompts))]
		got := make([][][]engine.Position, len(sides))
		g, gctx := errgroup.WithContext(ctx)
		for i, s := range sides {
			g.Go(func() error {
				known, missing := in.first.take(names[i], prompts)
				if got[i] = known; len(missing) == 0 {
					return nil
				}
				ask := make([][]int, len(missing))
				for m, at := range missing {
					ask[m] = prompts[at]
				}
				asked, err := score(gctx, s.Scorer, ask, in.Spec.Top, in.Vocab, from)
				if err != nil {
					return fmt.Errorf("%s: %w", names[i], err)
				}
				for m, at := range missing {
					got[i][at] = asked[m]
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for j, tokens := range prompts {
			pos := make([][]engine.Position, len(sides))
			for i := range sides {
				pos[i] = got[i][j]
			}
			ev.add(tokens, in.from(from+j), pos)
			if in.Strata != nil {
				ev.Prompts[from+j].Stratum = in.Strata[from+j]
			}
		}
		in.Progress.Report(ev.progress(in.stage("prefill"), len(in.Prompts)))
		if in.Sequential && len(ev.Prompts) < len(in.Prompts) && enough(ev) {
			ev.Asked, ev.Digest = len(ev.Prompts), promptsDigest(ev.tokens())
			break
		}
	}
	return nil
}

// localise is how many prompts a failed run goes on to: the verdict needs
// fewer, the signature that names the cause is noise with fewer.
const localise = 64

// enough says that a sequential run may stop.
func enough(ev *Evidence) bool {
	switch decide(ev).Verdict {
	case gate.Pass:
		return true
	case gate.Fail:
		return len(ev.Prompts) >= localise
	}
	return false
}

// score checks what a Scorer says, whatever it is; prompts are numbered from first.
func score(ctx context.Context, s Scorer, prompts [][]int, k, vocab, first int) ([][]engine.Position, error) {
	got, err := s.Score(ctx, prompts, k)
	if v := (*engine.Violation)(nil); errors.As(err, &v) {
		moved := *v
		moved.Prompt += first
		return nil, &moved
	}
	if err != nil {
		return nil, fmt.Errorf("prompts %d to %d: %w", first, first+len(prompts)-1, err)
	}
	if len(got) != len(prompts) {
		return nil, fmt.Errorf("prompts %d to %d: %w: %d answers", first, first+len(prompts)-1, engine.ErrLength, len(got))
	}
	for i, p := range prompts {
		if err := engine.CheckPositions(first+i, p, got[i], k, vocab); err != nil {
			return nil, err
		}
	}
	return got, nil
}
