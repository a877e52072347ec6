package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tarbert/internal/certificate"
	"tarbert/internal/device"
	"tarbert/internal/engine"
	"tarbert/internal/executor"
	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/spec"
	"tarbert/internal/store"
)

// Deps is everything that a release touches.
type Deps struct {
	Store     *store.Store
	Home      string // absolute
	Devices   []device.Driver
	Executors map[string]executor.Executor
	Engines   map[string]engine.Engine
	// Trainers maps a trainer's name to the command that speaks the trainer contract.
	Trainers map[string][]string
	Now      func() time.Time
	// Measure gives the float32 GEMM rate of this node's processors in GFLOP/s.
	Measure func(threads int) float64
	Threads int
	Version string
	// Watch, if set, is told of every stage's change of state; Progress of what happens inside.
	Watch    func(Event)
	Progress progress.Func
}

// Options of one run.
type Options struct {
	// Until ends after this stage, if set: `tarbert plan` is a release until plan.
	Until string
	// Up leaves the endpoint running until the context ends; Serving is told of
	// the released result and where it answers.
	Up      bool
	Serving func(res *Result, url string)
}

// State of a stage in this run.
type State string

// Stage states.
const (
	Running State = "running"
	Ended   State = "ended"  // its gate has a verdict
	Reused  State = "reused" // passed before on the same inputs
	Errored State = "error"
)

// Event is a stage's change of state.
type Event struct {
	Stage string        `json:"stage"`
	State State         `json:"state"`
	Gate  gate.Result   `json:"gate"`
	Line  string        `json:"line"` // what to remember of it, for people
	Took  time.Duration `json:"took"`
}

// StageResult is one stage of a finished or stopped run.
type StageResult struct {
	Stage    string              `json:"stage"`
	State    State               `json:"state"`
	Digest   string              `json:"digest"` // of its inputs
	Gate     gate.Result         `json:"gate"`
	Line     string              `json:"line"`
	Text     string              `json:"text,omitempty"` // a table for people, where the stage has one
	Seconds  float64             `json:"seconds"`
	Evidence string              `json:"evidence"` // the report's file
	Bound    []certificate.Bound `json:"bound"`    // what the certificate binds
}

// Result of a run.
type Result struct {
	ID          string        `json:"id"`
	Name        string        `json:"name"`
	Verdict     gate.Verdict  `json:"verdict"` // pass = released (or: every stage asked for has passed)
	Released    bool          `json:"released"`
	Stages      []StageResult `json:"stages"`
	Certificate string        `json:"certificate,omitempty"`
	Summary     *Summary      `json:"summary,omitempty"`
	Seconds     float64       `json:"seconds"`
}

// StageNames lists the stages in order.
func StageNames() []string {
	var names []string
	for _, s := range stages() {
		names = append(names, s.name)
	}
	return names
}

// Run runs or resumes the release that s describes. The error is for what kept
// a stage from reaching a verdict; a gate that says no is a Result, not an error.
func Run(ctx context.Context, d Deps, s *spec.Release, o Options) (*Result, error) {
	began := d.Now()
	id, err := openRelease(ctx, d, s)
	if err != nil {
		return nil, err
	}
	unlock, err := d.Store.Lock(ctx, "release-"+id)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", id, err)
	}
	defer unlock()

	r := &run{Deps: d, spec: s, id: id, dir: filepath.Join(d.Home, "releases", id), options: o}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, fmt.Errorf("release %s: %w", id, err)
	}
	if r.records, err = d.Store.Records(ctx, id); err != nil {
		return nil, err
	}
	if err := r.preflight(o); err != nil {
		return nil, err
	}
	res := &Result{ID: id, Name: s.Name, Verdict: gate.Pass}
	for _, st := range stages() {
		sr, err := r.stage(ctx, st)
		if sr != nil {
			res.Stages = append(res.Stages, *sr)
		}
		if err != nil {
			return res, fmt.Errorf("%s: %w", st.name, err)
		}
		if !sr.Gate.Passed() {
			res.Verdict = sr.Gate.Verdict
			break
		}
		if st.name == o.Until {
			break
		}
		res.Released = st.name == "serve"
	}
	res.Certificate, res.Summary = r.certificatePath(), r.summary()
	res.Seconds = d.Now().Sub(began).Seconds()
	return res, r.stayUp(ctx, res)
}

// stayUp keeps the endpoint, if there is one, until the context ends: that is how `--up` is meant to end.
func (r *run) stayUp(ctx context.Context, res *Result) error {
	if r.live == nil {
		return nil
	}
	if r.options.Serving != nil {
		r.options.Serving(res, r.serve.URL)
	}
	<-ctx.Done()
	return r.live.Stop(context.WithoutCancel(ctx))
}

// preflight finds now what would otherwise stop the release after all the work.
func (r *run) preflight(o Options) error {
	served := slices.ContainsFunc(r.records, func(rec store.Record) bool { return rec.Stage == "serve" })
	if o.Until != "" || served {
		return nil // an endpoint of a killed run may hold the port: serve takes it over
	}
	ln, err := net.Listen("tcp", r.spec.Serve.Addr)
	if err != nil {
		return fmt.Errorf("serve.addr %s in %s: %w; free the port or choose another (port 0 takes a free one)", r.spec.Serve.Addr, r.spec.File, err)
	}
	return ln.Close()
}

// openRelease finds the release that this file last began, or begins one.
func openRelease(ctx context.Context, d Deps, s *spec.Release) (string, error) {
	id, found, err := d.Store.FindRelease(ctx, s.Name, s.File)
	if err != nil || found {
		return id, err
	}
	digest, err := store.FileDigest(s.File)
	if err != nil {
		return "", err
	}
	return d.Store.CreateRelease(ctx, s.Name, s.File, digest, d.Now())
}

// stage runs one stage, or takes its earlier result.
func (r *run) stage(ctx context.Context, st stage) (*StageResult, error) {
	digest, err := r.inputDigest(st)
	if err != nil {
		return nil, err
	}
	if past, ok := r.reusable(st, digest); ok {
		r.tell(Event{Stage: st.name, State: Reused, Gate: past.Gate, Line: past.Line})
		past.State = Reused
		r.bound = append(r.bound, past.Bound...)
		r.done = append(r.done, past)
		return &past, nil
	}
	if err := r.journal(ctx, st.name, "started", digest, nil); err != nil {
		return nil, err
	}
	r.tell(Event{Stage: st.name, State: Running})
	began := r.Now()
	r.stageDir = filepath.Join(r.dir, st.name+"-"+short(digest))
	if err := os.MkdirAll(r.stageDir, 0o755); err != nil {
		return nil, err
	}
	out, err := st.act(ctx, r)
	took := r.Now().Sub(began)
	if err != nil {
		r.tell(Event{Stage: st.name, State: Errored, Line: err.Error(), Took: took})
		note, _ := json.Marshal(map[string]string{"error": err.Error()})
		// The journal's own failure would hide why the stage failed.
		return nil, errors.Join(err, r.journal(context.WithoutCancel(ctx), st.name, "error", digest, note))
	}
	res, err := r.conclude(ctx, st, digest, out, took)
	if err != nil {
		return nil, err
	}
	r.tell(Event{Stage: st.name, State: Ended, Gate: res.Gate, Line: res.Line, Took: took})
	return res, nil
}

// conclude writes the report, digests what the stage made, and journals the verdict.
func (r *run) conclude(ctx context.Context, st stage, digest string, out outcome, took time.Duration) (*StageResult, error) {
	report, err := json.MarshalIndent(out.report, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write report: %w", err)
	}
	evidence := filepath.Join(r.stageDir, "report.json")
	if err := store.WriteFile(evidence, append(report, '\n'), 0o644); err != nil {
		return nil, err
	}
	res := StageResult{
		Stage: st.name, State: Ended, Digest: digest, Gate: out.gate, Line: out.line, Text: out.text,
		Seconds: took.Seconds(), Evidence: evidence,
	}
	for _, b := range append([]binding{{st.name + "-report", evidence}}, out.binds...) {
		a, err := certificate.Bind(r.Home, b.name, b.path)
		if err != nil {
			return nil, err
		}
		res.Bound = append(res.Bound, a)
	}
	r.bound = append(r.bound, res.Bound...)
	r.done = append(r.done, res)
	data, err := json.Marshal(res)
	if err != nil {
		return nil, err
	}
	event := map[gate.Verdict]string{gate.Pass: "passed", gate.Fail: "failed"}[out.gate.Verdict]
	if event == "" {
		event = "inconclusive"
	}
	return &res, r.journal(ctx, st.name, event, digest, data)
}

// reusable returns an earlier pass on the same inputs whose outputs are intact.
func (r *run) reusable(st stage, digest string) (StageResult, bool) {
	if st.always != nil && st.always(r) {
		return StageResult{}, false
	}
	for i := len(r.records) - 1; i >= 0; i-- {
		rec := r.records[i]
		if rec.Stage != st.name || rec.Event != "passed" || rec.Digest != digest {
			continue
		}
		var past StageResult
		if json.Unmarshal(rec.Data, &past) != nil || r.intact(past) != nil {
			return StageResult{}, false
		}
		report, err := os.ReadFile(past.Evidence)
		if err != nil || st.load(r, report) != nil {
			return StageResult{}, false
		}
		return past, true
	}
	return StageResult{}, false
}

func (r *run) journal(ctx context.Context, stage, event, digest string, data json.RawMessage) error {
	_, err := r.Store.Append(ctx, store.Record{
		Release: r.id, Stage: stage, Event: event, Digest: digest, At: r.Now(), Data: data,
	})
	return err
}

func (r *run) tell(e Event) {
	if r.Watch != nil {
		r.Watch(e)
	}
}
