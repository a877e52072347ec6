package verify

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tarbert/internal/engine"
	"tarbert/internal/progress"
	"tarbert/internal/spec"
	"tarbert/internal/store"
)

// judgeVersion counts changes of what a report says of the same numbers. Under
// other rules only the verdict and the statistics must agree.
const judgeVersion = 1

// EvidenceVersion is the layout of the evidence file.
const EvidenceVersion = 1

// Evidence is everything that the verdict rests on: per token what each side
// said, and the settings it is judged by.
type Evidence struct {
	Version   int         `json:"version"`
	Name      string      `json:"name,omitempty"` // of a part: "decode", "load 32", "replica 0"
	Digest    string      `json:"prompts_digest"` // of the token ids, see promptsDigest
	Reference Stack       `json:"reference"`
	Candidate Stack       `json:"candidate"`
	Floor     *Stack      `json:"floor,omitempty"`
	Spec      spec.Verify `json:"spec"`
	Typical   float64     `json:"typical"` // margin on the typical ratio
	Seed      uint64      `json:"seed"`
	Asked     int         `json:"asked"` // prompts
	// Failure is why it ended early, naming side, prompt and position.
	Failure string   `json:"failure,omitempty"`
	Prompts []Prompt `json:"prompts"`
	Seconds float64  `json:"seconds"`
	// Planned prompts of a sequential run, which stops at Asked; 0 = not sequential.
	Planned int `json:"planned,omitempty"`
	// Families of hypotheses that share the chance of a false fail; 0 = 1.
	Families int  `json:"families,omitempty"`
	Strata   bool `json:"strata,omitempty"` // prompts have one each
	// Contract, Parts and Reverse are what else was asked.
	Contract *Contract        `json:"contract,omitempty"`
	Parts    []*Evidence      `json:"parts,omitempty"`
	Reverse  *ReverseEvidence `json:"reverse,omitempty"`
	// Floors are the sides against themselves, and FloorFrom which of them, or
	// of what was given, the floor of every prompt is.
	Floors    []*Evidence `json:"floors,omitempty"`
	FloorFrom string      `json:"floor_from,omitempty"`
	// Scope is what was not tested, and why; Cost what each part took.
	Scope []string `json:"scope,omitempty"`
	Cost  []Cost   `json:"cost,omitempty"`
	// Report is what was concluded, and Judge by which rules: Recompute comes to
	// the same or refuses.
	Report *Report `json:"report,omitempty"`
	Judge  int     `json:"judge,omitempty"`
}

// Prompt is one prompt's numbers. Entry i of every list is about token i+1:
// the first token has nothing before it.
type Prompt struct {
	Tokens []int `json:"tokens"`
	From   int   `json:"from"` // first position that is judged
	// Stratum is the kind of prompt, where kinds are told apart.
	Stratum string `json:"stratum,omitempty"`
	// LogProb is the reference's, of the actual tokens, in nats.
	LogProb []float64 `json:"logprob"`
	// Gap is the reference's between its likeliest and second likeliest token, in nats.
	Gap       []float64 `json:"gap"`
	Candidate Series    `json:"candidate"`
	Floor     *Series   `json:"floor,omitempty"`
}

// Series is one side against the reference.
type Series struct {
	LogProb []float64 `json:"logprob"` // of the actual tokens
	KL      []float64 `json:"kl"`      // lower bound of KL(reference‖side), nats, not clipped
	// Same has a 1 where both have the same likeliest token, else a 0.
	Same string `json:"same"`
	// SlopeXY and SlopeXX are sums over the judged positions; see slopeSums.
	SlopeXY float64 `json:"slope_xy"`
	SlopeXX float64 `json:"slope_xx"`
	// Seen sums, over the judged positions that have both kinds, how much more
	// the side moved likely tokens that the text already holds than others, in
	// nats; SeenN counts them. Penalties move nothing else.
	// SeenX is how much likelier the reference has them to begin with.
	Seen  float64 `json:"seen"`
	SeenX float64 `json:"seen_x"`
	SeenN int     `json:"seen_n"`
}

func newEvidence(in Input) *Evidence {
	ev := &Evidence{
		Version: EvidenceVersion, Digest: promptsDigest(in.Prompts), Reference: in.Reference.Stack, Candidate: in.Candidate.Stack,
		Spec: in.Spec, Typical: in.Typical, Seed: in.Seed, Asked: len(in.Prompts), Prompts: []Prompt{}, Scope: in.Scope,
	}
	if ev.Typical == 0 {
		ev.Typical = in.Spec.Margin.Ratio
	}
	ev.Families = in.families()
	if in.Floor.Scorer != nil {
		floor := in.Floor.Stack
		ev.Floor = &floor
	}
	if ev.Strata = in.Strata != nil; in.Sequential {
		ev.Planned = len(in.Prompts)
	}
	return ev
}

// add reduces one prompt's positions (reference, candidate, and floor if
// there is one) to numbers.
func (ev *Evidence) add(tokens []int, from int, sides [][]engine.Position) {
	p := Prompt{Tokens: tokens, From: from}
	ref := sides[0]
	for t := 1; t < len(tokens); t++ {
		p.LogProb = append(p.LogProb, ref[t].LogProb)
		gap := 0.0
		if top := ref[t].Top; len(top) > 1 {
			gap = top[0].LogProb - top[1].LogProb
		}
		p.Gap = append(p.Gap, gap)
	}
	p.Candidate = series(ref, sides[1], from)
	if len(sides) > 2 {
		s := series(ref, sides[2], from)
		if ev.FloorFrom == FloorCandidate { // the candidate's distance to itself, on the reference's scale
			s = series(sides[1], sides[2], from)
			for i := range s.LogProb {
				s.LogProb[i] = min(0, p.LogProb[i]+s.LogProb[i]-p.Candidate.LogProb[i])
			}
		}
		p.Floor = &s
	}
	ev.Prompts = append(ev.Prompts, p)
}

func series(ref, side []engine.Position, from int) Series {
	var s Series
	same := make([]byte, 0, len(ref))
	before := map[int]bool{}
	for t := 1; t < len(ref); t++ {
		s.LogProb = append(s.LogProb, side[t].LogProb)
		s.KL = append(s.KL, lowerKL(ref[t], side[t]))
		mark := byte('0')
		if ref[t].Top[0].Token == side[t].Top[0].Token {
			mark = '1'
		}
		same = append(same, mark)
		if t >= from {
			xy, xx := slopeSums(ref[t], side[t])
			s.SlopeXY, s.SlopeXX = s.SlopeXY+xy, s.SlopeXX+xx
			if d, x, ok := seenShift(ref[t], side[t], before); ok {
				s.Seen, s.SeenX, s.SeenN = s.Seen+d, s.SeenX+x, s.SeenN+1
			}
		}
		before[ref[t].Token] = true
	}
	s.Same = string(same)
	return s
}

func (ev *Evidence) progress(stage string, total int) progress.Update {
	kl, floor := 0.0, 0.0
	for _, whole := range ev.Prompts {
		p := whole.judged()
		kl += mean(clipped(p.Candidate.KL, ev.Spec.Margin.Clip))
		if p.Floor != nil {
			floor += mean(clipped(p.Floor.KL, ev.Spec.Margin.Clip))
		}
	}
	n := float64(len(ev.Prompts))
	u := progress.Update{
		Stage: stage, Done: n, Total: float64(total), Unit: "prompts", Values: map[string]float64{"kl": kl / n},
		Note: fmt.Sprintf("KL %.2e", kl/n),
	}
	if ev.Floor != nil {
		u.Values["floor"] = floor / n
		u.Note += fmt.Sprintf(", floor %.2e", floor/n)
	}
	return u
}

func clipped(x []float64, at float64) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = min(v, at)
	}
	return out
}

func (ev *Evidence) write(path string) error {
	b, err := json.Marshal(ev)
	if err != nil {
		return err
	}
	return store.WriteFile(path, append(b, '\n'), 0o644)
}

// promptsDigest is the hex sha256 of the prompts in sorted order, each as its
// length and its ids, little-endian uint32: which set was asked, in any order.
func promptsDigest(prompts [][]int) string {
	sorted := slices.Clone(prompts)
	slices.SortFunc(sorted, slices.Compare)
	h := sha256.New()
	var b []byte
	for _, p := range sorted {
		b = binary.LittleEndian.AppendUint32(b[:0], uint32(len(p)))
		for _, id := range p {
			b = binary.LittleEndian.AppendUint32(b, uint32(id))
		}
		h.Write(b) // a hash's Write does not fail
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Recompute reads an evidence file and judges it anew: the same report that
// Run returned. It refuses a file whose numbers do not belong together.
func Recompute(evidencePath string) (*Report, error) {
	path, err := filepath.Abs(evidencePath)
	if err != nil {
		return nil, fmt.Errorf("recompute: %w", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("recompute: %w", err)
	}
	ev, err := parseEvidence(b)
	if err != nil {
		return nil, fmt.Errorf("recompute %s: %w", path, err)
	}
	r := judge(ev)
	if err := ev.agrees(r); err != nil {
		return nil, fmt.Errorf("recompute %s: %w", path, err)
	}
	r.Evidence = path
	return r, nil
}

// ErrTampered: the numbers do not give the report that the file holds.
var ErrTampered = errors.New("the numbers do not give the report that is written beside them")

// agrees compares what the file says was concluded with what its numbers give.
func (ev *Evidence) agrees(r *Report) error {
	if ev.Report == nil {
		return nil
	}
	var said, found any
	for _, x := range []struct {
		r    *Report
		into *any
	}{{ev.Report, &said}, {r, &found}} {
		b, err := json.Marshal(x.r)
		if err == nil {
			err = json.Unmarshal(b, x.into)
		}
		if err != nil {
			return err
		}
	}
	if ev.Judge != judgeVersion {
		said, found = lasting(said), lasting(found)
	}
	if at := differs("", said, found); at != "" {
		return fmt.Errorf("%w: at %s", ErrTampered, at)
	}
	return nil
}

// lasting is the part of a report that later rules do not change.
func lasting(report any) any {
	m, _ := report.(map[string]any)
	out := map[string]any{}
	for _, name := range []string{"prompts_digest", "asked", "prompts", "tokens", "kl", "floor_kl", "ratio", "quantiles", "top1", "delta_nll", "slope", "nll"} {
		out[name] = m[name]
	}
	if g, ok := m["gate"].(map[string]any); ok {
		out["verdict"] = g["verdict"]
	}
	return out
}

// differs is where two JSON values differ first, or "". Numbers may differ by
// the rounding of another processor.
func differs(at string, a, b any) string {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return at + " (other fields)"
		}
		for _, k := range slices.Sorted(maps.Keys(x)) {
			if d := differs(at+"."+k, x[k], y[k]); d != "" {
				return d
			}
		}
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return at + " (another length)"
		}
		for i := range x {
			if d := differs(fmt.Sprintf("%s[%d]", at, i), x[i], y[i]); d != "" {
				return d
			}
		}
	case float64:
		if y, ok := b.(float64); !ok || math.Abs(x-y) > 1e-9*max(math.Abs(x), math.Abs(y), 1e-9) {
			return at
		}
	case string:
		if y, ok := b.(string); !ok || wordsOf(x) != wordsOf(y) {
			return at // numbers in texts are rounded for people, and compared where they come from
		}
	default:
		if a != b {
			return at
		}
	}
	return ""
}

func wordsOf(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("0123456789.e+-", r) {
			return -1
		}
		return r
	}, s)
}

func parseEvidence(b []byte) (*Evidence, error) {
	var ev Evidence
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&ev); err != nil {
		return nil, err
	}
	if ev.Version != EvidenceVersion {
		return nil, fmt.Errorf("evidence version %d, this program reads %d", ev.Version, EvidenceVersion)
	}
	return &ev, ev.validate()
}

// validate checks shapes and ranges, so that judging cannot trip over them.
func (ev *Evidence) validate() error {
	if !(ev.Spec.Margin.Clip > 0) {
		return fmt.Errorf("clip is %g", ev.Spec.Margin.Clip)
	}
	if a, b := ev.Spec.Alpha, ev.Spec.Beta; !(a >= 0 && a < 0.5 && b >= 0 && b < 0.5) {
		return fmt.Errorf("alpha is %g and beta %g", a, b)
	}
	prompts := make([][]int, len(ev.Prompts))
	for i, p := range ev.Prompts {
		prompts[i] = p.Tokens
		n := len(p.Tokens) - 1
		if n < 1 || len(p.LogProb) != n || len(p.Gap) != n {
			return fmt.Errorf("prompt %d: %d tokens with %d log-probabilities and %d gaps", i, n+1, len(p.LogProb), len(p.Gap))
		}
		if p.From < 1 || p.From > len(p.Tokens) {
			return fmt.Errorf("prompt %d of %d tokens is judged from %d", i, len(p.Tokens), p.From)
		}
		if (p.Floor != nil) != (ev.Floor != nil) {
			return fmt.Errorf("prompt %d: floor is there for some and not for others", i)
		}
		sides := []*Series{&p.Candidate}
		if p.Floor != nil {
			sides = append(sides, p.Floor)
		}
		for _, s := range sides {
			if err := s.validate(n); err != nil {
				return fmt.Errorf("prompt %d: %w", i, err)
			}
		}
	}
	for i, p := range append(slices.Clip(ev.Parts), ev.Floors...) {
		if p == nil || len(p.Parts)+len(p.Floors) > 0 || p.Reverse != nil || p.Contract != nil || p.Report != nil {
			return fmt.Errorf("part %d is not one", i)
		}
		if err := p.validate(); err != nil {
			return fmt.Errorf("part %q: %w", p.Name, err)
		}
	}
	if from := ev.FloorFrom; ev.Name == "" && from != FloorGiven && from != ev.lowestFloor() {
		return fmt.Errorf("floor_from is %q, the lowest floor measured is %q", from, ev.lowestFloor())
	}
	if ev.Reverse != nil {
		if err := ev.Reverse.validate(); err != nil {
			return err
		}
	}
	return ev.complete(prompts)
}

// complete checks that a run without a failure has all of its prompts.
func (ev *Evidence) complete(prompts [][]int) error {
	whole := ev.Failure == "" && !ev.refused()
	if whole && (len(ev.Prompts) != ev.Asked || len(ev.Prompts) == 0) {
		return fmt.Errorf("%d prompts of %d, and no failure", len(ev.Prompts), ev.Asked)
	}
	if whole && promptsDigest(prompts) != ev.Digest {
		return errors.New("the prompts are not those of prompts_digest")
	}
	return nil
}

// refused says that the contract let no numbers be collected.
func (ev *Evidence) refused() bool {
	return ev.Contract != nil && len(ev.Prompts) == 0 && meaningless(CheckContract(ev.Contract.Reference, ev.Contract.Candidate))
}

func (s *Series) validate(n int) error {
	if len(s.LogProb) != n || len(s.KL) != n || len(s.Same) != n {
		return fmt.Errorf("a side has %d log-probabilities, %d divergences and %d marks for %d tokens", len(s.LogProb), len(s.KL), len(s.Same), n)
	}
	for i := range n {
		if s.LogProb[i] > 0 || s.KL[i] < 0 || (s.Same[i] != '0' && s.Same[i] != '1') {
			return fmt.Errorf("token %d is out of range", i+1)
		}
	}
	if s.SlopeXX < 0 || math.IsNaN(s.SlopeXY) || s.SeenN < 0 {
		return errors.New("slope sums are out of range")
	}
	return nil
}

// judged is the prompt with the numbers of its judged positions only: entry i
// of a list is now about position From+i.
func (p Prompt) judged() Prompt {
	at := p.From - 1
	p.LogProb, p.Gap = p.LogProb[at:], p.Gap[at:]
	p.Candidate = p.Candidate.after(at)
	if p.Floor != nil {
		f := p.Floor.after(at)
		p.Floor = &f
	}
	return p
}

func (s Series) after(at int) Series {
	s.LogProb, s.KL, s.Same = s.LogProb[at:], s.KL[at:], s.Same[at:]
	return s
}

// canonical gives the judged part of every prompt that has one, sorted by
// tokens, then numbers, so that the order they were asked in changes nothing.
// The second result is each one's index in the evidence.
func (ev *Evidence) canonical() ([]Prompt, []int) {
	var order []int
	for i, p := range ev.Prompts {
		if p.From < len(p.Tokens) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(i, j int) int {
		a, b := ev.Prompts[i], ev.Prompts[j]
		return cmp.Or(slices.Compare(a.Tokens, b.Tokens), slices.Compare(a.Candidate.KL, b.Candidate.KL),
			slices.Compare(a.Candidate.LogProb, b.Candidate.LogProb), slices.Compare(a.LogProb, b.LogProb), cmp.Compare(a.From, b.From))
	})
	sorted := make([]Prompt, len(order))
	for i, at := range order {
		sorted[i] = ev.Prompts[at].judged()
	}
	return sorted, order
}
