package verify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tarbert/internal/engine"
)

// JournalFile is the name of the journal in a run's directory, for as long as
// the run is not finished.
const JournalFile = "verify-journal.jsonl"

// Journal keeps every answer of a run on disk as it comes, so that an
// interrupted run asks nothing twice, and counts what was asked. Its first line
// says which run it is of.
type Journal struct {
	mu    sync.Mutex
	file  *os.File
	have  map[string]json.RawMessage
	seen  map[string]int // how often each request was made in this process
	costs []Cost
	now   func() time.Time
	since time.Time // of the last of costs
}

// Cost is what one stage took. Reused are requests that an earlier,
// interrupted run had made.
type Cost struct {
	Stage     string  `json:"stage"`
	Requests  int     `json:"requests"`
	Reused    int     `json:"reused,omitempty"`
	Scored    int     `json:"scored_tokens"`    // prompt tokens that were scored or read
	Generated int     `json:"generated_tokens"` // written
	Seconds   float64 `json:"seconds"`
}

// ErrOtherRun: the journal belongs to another run.
var ErrOtherRun = errors.New("the directory holds another, unfinished run")

type journalLine struct {
	Run    string          `json:"run,omitempty"`
	Key    string          `json:"key,omitempty"`
	Answer json.RawMessage `json:"answer,omitempty"`
}

// OpenJournal opens or begins the journal at path. run is everything that the
// answers depend on: sides, models, versions, prompts, seed.
func OpenJournal(path string, run any, now func() time.Time) (*Journal, error) {
	b, err := json.Marshal(run)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	sum := sha256.Sum256(b)
	want := hex.EncodeToString(sum[:])
	j := &Journal{have: map[string]json.RawMessage{}, seen: map[string]int{}, now: now}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("journal: %w", err)
	}
	keep, run1 := 0, ""
	for rest := old; ; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		var l journalLine
		if !whole || json.Unmarshal(line, &l) != nil {
			break // what a kill cut off is asked again
		}
		if keep == 0 {
			run1 = l.Run
		} else {
			j.have[l.Key] = l.Answer
		}
		keep, rest = keep+len(line)+1, after
	}
	if keep > 0 && run1 != want {
		return nil, fmt.Errorf("journal %s: %w: give another directory, or the same sides and flags", path, ErrOtherRun)
	}
	if j.file, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	err = errors.Join(j.file.Truncate(int64(keep)), seekEnd(j.file))
	if err == nil && keep == 0 {
		err = j.line(journalLine{Run: want})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("journal: %w", err), j.file.Close())
	}
	return j, nil
}

func seekEnd(f *os.File) error {
	_, err := f.Seek(0, io.SeekEnd)
	return err
}

func (j *Journal) line(l journalLine) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = j.file.Write(append(b, '\n'))
	return err
}

// Known is how many answers an earlier run left.
func (j *Journal) Known() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.have)
}

// Close leaves the journal for a later run.
func (j *Journal) Close() error { return errors.Join(j.file.Sync(), j.file.Close()) }

// Remove ends it: the evidence is on disk.
func (j *Journal) Remove() error { return errors.Join(j.file.Close(), os.Remove(j.file.Name())) }

// Stage begins the account of a stage. A nil journal counts nothing.
func (j *Journal) Stage(name string) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.settle()
	j.costs = append(j.costs, Cost{Stage: name})
}

func (j *Journal) settle() {
	now := j.now()
	if n := len(j.costs); n > 0 {
		j.costs[n-1].Seconds = now.Sub(j.since).Seconds()
	}
	j.since = now
}

// Costs are the stages so far.
func (j *Journal) Costs() []Cost {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.costs); n > 0 {
		j.costs[n-1].Seconds = j.now().Sub(j.since).Seconds()
	}
	return append([]Cost(nil), j.costs...)
}

func (j *Journal) count(add Cost) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.costs) == 0 {
		j.costs, j.since = append(j.costs, Cost{Stage: "prompts"}), j.now()
	}
	c := &j.costs[len(j.costs)-1]
	c.Requests, c.Reused = c.Requests+add.Requests, c.Reused+add.Reused
	c.Scored, c.Generated = c.Scored+add.Scored, c.Generated+add.Generated
}

// recall answers from the journal, or asks and writes the answer down. The
// same request made again is another one: a probe asks twice on purpose.
func recall[T any](j *Journal, side, method string, request any, ask func() (T, error), cost func(T) Cost) (T, error) {
	var answer T
	b, err := json.Marshal(request)
	if err != nil {
		return answer, err
	}
	sum := sha256.Sum256(append([]byte(side+"\x00"+method+"\x00"), b...))
	j.mu.Lock()
	base := hex.EncodeToString(sum[:16])
	key := fmt.Sprintf("%s#%d", base, j.seen[base])
	j.seen[base]++
	old, known := j.have[key]
	j.mu.Unlock()
	if known && json.Unmarshal(old, &answer) == nil {
		j.count(Cost{Reused: 1})
		return answer, nil
	}
	if answer, err = ask(); err != nil {
		return answer, err
	}
	c := cost(answer)
	c.Requests = 1
	j.count(c)
	if b, err = json.Marshal(answer); err != nil {
		return answer, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.line(journalLine{Key: key, Answer: b}); err != nil {
		return answer, fmt.Errorf("journal: %w", err)
	}
	return answer, nil
}

// Endpoint is what a side must answer in a full run; *engine.Access does.
type Endpoint interface {
	Scorer
	Prober
	Completer
	Tokenize(ctx context.Context, text string) ([]int, error)
}

// Recorded is an endpoint whose answers go through a journal.
type Recorded struct {
	Journal *Journal
	Name    string // of the side, and of what is special about it ("candidate at 32")
	Endpoint
	Concurrency int // prompts of one Score call in flight; at least 1
}

// Score asks for each prompt on its own, so that each answer is kept.
func (r *Recorded) Score(ctx context.Context, prompts [][]int, k int) ([][]engine.Position, error) {
	out, errs := make([][]engine.Position, len(prompts)), make([]error, len(prompts))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(max(r.Concurrency, 1))
	for i, p := range prompts {
		g.Go(func() error {
			got, err := recall(r.Journal, r.Name, "score", scoreKey{p, k}, func() (packed, error) {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				one, err := r.Endpoint.Score(ctx, [][]int{p}, k)
				if err == nil && len(one) != 1 {
					err = &engine.Violation{Position: -1, Kind: engine.ErrLength, Detail: fmt.Sprintf("%d answers for one prompt", len(one))}
				}
				if err != nil {
					return nil, err
				}
				return pack(one[0]), nil
			}, func(packed) Cost { return Cost{Scored: len(p)} })
			if v := (*engine.Violation)(nil); errors.As(err, &v) {
				moved := *v
				moved.Prompt, err = i, &moved
			}
			if out[i], errs[i] = got.unpack(), err; err != nil {
				cancel()
			}
			return nil
		})
	}
	_ = g.Wait() // its functions return nil: errs keeps them in prompt order
	var first error
	for _, err := range errs {
		if err != nil && (first == nil || errors.Is(first, context.Canceled)) {
			first = err // the error that began it, not a cancellation that it caused
		}
	}
	if first != nil {
		return nil, first
	}
	return out, nil
}

type scoreKey struct {
	Tokens []int
	K      int
}

// packed is positions in as few bytes as JSON allows: token, log-probability,
// rank, then pairs of the likeliest tokens.
type packed [][]float64

func pack(p []engine.Position) packed {
	out := make(packed, len(p))
	for i, x := range p {
		out[i] = []float64{float64(x.Token), x.LogProb, float64(x.Rank)}
		for _, e := range x.Top {
			out[i] = append(out[i], float64(e.Token), e.LogProb)
		}
	}
	return out
}

func (p packed) unpack() []engine.Position {
	out := make([]engine.Position, len(p))
	for i, x := range p {
		if len(x) < 3 {
			continue
		}
		out[i] = engine.Position{Token: int(x[0]), LogProb: x[1], Rank: int(x[2])}
		for at := 3; at+1 < len(x); at += 2 {
			out[i].Top = append(out[i].Top, engine.TokenLogProb{Token: int(x[at]), LogProb: x[at+1]})
		}
	}
	return out
}

// Generate continues, recorded.
func (r *Recorded) Generate(ctx context.Context, q engine.GenerateRequest) ([]engine.Generated, error) {
	return recall(r.Journal, r.Name, "generate", q, func() ([]engine.Generated, error) { return r.Endpoint.Generate(ctx, q) },
		func(got []engine.Generated) Cost {
			c := Cost{Scored: len(q.Tokens)}
			for _, g := range got {
				c.Generated += max(len(g.Positions), g.CompletionTokens)
			}
			return c
		})
}

// Complete continues, recorded.
func (r *Recorded) Complete(ctx context.Context, q engine.CompletionRequest) ([]engine.Completion, error) {
	return recall(r.Journal, r.Name, "complete", q, func() ([]engine.Completion, error) { return r.Endpoint.Complete(ctx, q) },
		func(got []engine.Completion) Cost {
			c := Cost{Scored: len(q.Tokens)}
			for _, g := range got {
				c.Generated += len(g.TokenIDs)
			}
			return c
		})
}

// ChatTokens counts a conversation's tokens, recorded.
func (r *Recorded) ChatTokens(ctx context.Context, messages, tools json.RawMessage) (int, error) {
	return recall(r.Journal, r.Name, "chat", []json.RawMessage{messages, orNull(tools)}, func() (int, error) { return r.Endpoint.ChatTokens(ctx, messages, tools) },
		func(n int) Cost { return Cost{Scored: n, Generated: 1} })
}

func orNull(b json.RawMessage) json.RawMessage {
	if b == nil {
		return json.RawMessage("null")
	}
	return b
}
