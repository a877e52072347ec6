package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tarbert/internal/certificate"
	"tarbert/internal/device"
	"tarbert/internal/engine"
	"tarbert/internal/progress"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/release"
	"tarbert/internal/reward"
	"tarbert/internal/verify"
)

// end is one end of a comparison: an endpoint, ours or not.
type end struct {
	name, where string
	client      *engine.Client
	access      *engine.Access // set once a way to its numbers is known
	identity    engine.Identity
	stack       verify.Stack
	dir         string // set where it is a directory that we serve
	precision   string
}

// sides opens what the flags name, and stops what it started.
type sides struct {
	*app
	deps   release.Deps
	flags  *verifyFlags
	prefix string
	live   []*engine.Deployment

	reference, candidate, floorEnd *end
	replicas                       []*end

	out      string
	journal  *verify.Journal
	progress progress.Func
	vocab    int
	made     made
	last     verify.Input
}

func (s *sides) stop(ctx context.Context) error {
	var errs []error
	for _, d := range s.live {
		errs = append(errs, d.Stop(context.WithoutCancel(ctx)))
	}
	s.live = nil
	return errors.Join(errs...)
}

// openAll opens every side. problem is what an endpoint does wrong.
func (s *sides) openAll(ctx context.Context) (problem, err error) {
	f := s.flags
	s.reference, s.candidate = &end{name: "reference", where: f.reference}, &end{name: "candidate", where: f.candidate}
	ends := []*end{s.reference, s.candidate}
	if !isURL(f.reference) {
		s.reference.precision = "f32"
	}
	switch {
	case f.floor != "":
		s.floorEnd = &end{name: "floor", where: f.floor}
	case !isURL(f.reference):
		s.floorEnd = &end{name: "floor", where: f.reference, precision: "bf16"}
	}
	if s.floorEnd != nil {
		ends = append(ends, s.floorEnd)
	}
	for i, url := range f.replicas {
		r := &end{name: fmt.Sprintf("replica %d", i), where: url}
		s.replicas, ends = append(s.replicas, r), append(ends, r)
	}
	for _, e := range ends {
		if p, err := s.open(ctx, e); p != nil || err != nil {
			return p, err
		}
	}
	return nil, nil
}

// open makes an end's client: of a URL, or of a directory that is served for it.
func (s *sides) open(ctx context.Context, e *end) (problem, err error) {
	e.stack = verify.Stack{Name: e.name, URL: e.where}
	if isURL(e.where) {
		return s.endpoint(ctx, e)
	}
	return nil, s.deploy(ctx, e)
}

func isURL(where string) bool {
	u, err := url.Parse(where)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https")
}

// deploy serves a directory with the reference engine.
func (s *sides) deploy(ctx context.Context, e *end) error {
	if info, err := os.Stat(e.where); err != nil || !info.IsDir() {
		return badUsage("%s %q is neither a URL (http://…) nor a directory", e.name, e.where)
	}
	dir, err := filepath.Abs(e.where)
	if err != nil {
		return environment(err)
	}
	host, err := s.processor(ctx)
	if err != nil {
		return err
	}
	dep := engine.Deployer{Executor: s.deps.Executors["local"], Engine: s.deps.Engines["reference"], Stage: "open", Progress: s.progress}
	d, err := dep.Deploy(ctx, s.prefix+"-"+e.name, engine.Model{Dir: dir, Name: e.name}, host, engine.Options{Precision: e.precision, Threads: s.cores()})
	if err != nil {
		return err
	}
	s.live = append(s.live, d)
	digest, err := certificate.ModelDigest(dir)
	if err != nil {
		return err
	}
	e.client, e.dir = s.tuned(d.Client()), dir
	e.stack = verify.Stack{Name: e.name, Engine: "reference", Version: version(), Precision: e.precision, Device: host.Model, Digest: digest}
	if s.vocab == 0 {
		s.vocab = vocabOf(dir)
	}
	if e.identity, err = e.client.Identify(ctx); err != nil {
		return environment(fmt.Errorf("%s: %w", e.name, err))
	}
	return nil
}

// endpoint asks a URL what it is.
func (s *sides) endpoint(ctx context.Context, e *end) (problem, err error) {
	f := s.flags
	headers, model, key := f.candidateHeader, f.candidateModel, os.Getenv("TARBERT_CANDIDATE_KEY")
	if e == s.reference || e == s.floorEnd {
		headers, model, key = f.referenceHeader, f.referenceModel, os.Getenv("TARBERT_REFERENCE_KEY")
	}
	if model == "" {
		model = f.model
	}
	e.client = s.tuned(&engine.Client{URL: strings.TrimSuffix(strings.TrimSuffix(e.where, "/"), "/v1"), Model: model, Key: key})
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return nil, badUsage("header %q is not \"name: value\"", h)
		}
		if e.client.Header == nil {
			e.client.Header = http.Header{}
		}
		e.client.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	if e.identity, err = e.client.Identify(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		if e.client.Model == "" {
			return fmt.Errorf("%s %s: %w", e.name, e.where, err), nil
		}
		e.identity.Model = e.client.Model // a gateway may list no models, and still answer
	}
	if e.client.Model = e.identity.Model; e.client.Model == "" {
		return fmt.Errorf("%s %s lists no model: name one with --model", e.name, e.where), nil
	}
	id := e.identity
	e.stack = verify.Stack{Name: id.Model, Engine: id.Engine, Version: id.Version, URL: e.where, Gateway: id.Gateway, Root: id.Root, Flags: id.Flags}
	if s.vocab == 0 {
		s.vocab = id.Vocab
	}
	return nil, nil
}

func (s *sides) tuned(c *engine.Client) *engine.Client {
	// Zero values are the client's defaults.
	c.Concurrency, c.Timeout, c.Patience = s.flags.concurrency, s.flags.timeout, s.flags.patience
	return c
}

// vocabOf is the size of the vocabulary in config.json; 0 = not told.
func vocabOf(dir string) int {
	var c struct {
		Vocab int `json:"vocab_size"`
	}
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil || json.Unmarshal(b, &c) != nil {
		return 0
	}
	return c.Vocab
}

// processor is this machine's own device.
func (s *sides) processor(ctx context.Context) (device.Device, error) {
	nodes, err := s.deps.Executors["local"].Nodes(ctx)
	if err != nil {
		return device.Device{}, environment(err)
	}
	for _, n := range nodes {
		for _, d := range n.Devices {
			if d.Vendor == device.CPU {
				return d, nil
			}
		}
	}
	return device.Device{}, environment(errors.New("no processor was detected"))
}

// runIdentity is everything that a run's answers depend on.
type runIdentity struct {
	Stacks  []verify.Stack
	Models  []string
	Prompts string
	Flags   any
}

func (s *sides) identity() runIdentity {
	f := *s.flags
	id := runIdentity{Prompts: f.prompts, Flags: []any{f.seed, f.count, f.maxTokens, f.long, f.top, f.strata, f.all, f.strict, f.stages, f.margin, f.alpha, f.beta}}
	for _, e := range append([]*end{s.reference, s.candidate, s.floorEnd}, s.replicas...) {
		if e != nil {
			id.Stacks, id.Models = append(id.Stacks, e.stack), append(id.Models, e.identity.Model)
		}
	}
	return id
}

func (id runIdentity) short() string {
	b, err := json.Marshal(id)
	if err != nil {
		panic(err) // plain values marshal
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

// recorded is a side whose answers are journalled, with so many requests in flight.
func (s *sides) recorded(e *end, what string, inFlight int) *verify.Recorded {
	return &verify.Recorded{Journal: s.journal, Name: e.name + what, Endpoint: e.access.With(inFlight), Concurrency: inFlight}
}

func (s *sides) side(e *end) verify.Side {
	return verify.Side{Stack: e.stack, Scorer: s.recorded(e, "", s.flags.concurrency)}
}

// alone is the side with one request at a time: another batch composition.
func (s *sides) alone(e *end) verify.Scorer { return s.recorded(e, " again", 1) }

// made are the prompts of a run.
type made struct {
	prompts   [][]int
	from      []int
	limits    []int // of what the reference wrote after from
	kinds     []string
	scope     []string
	probe     []int
	probeText string
	eos       []int
}

// makePrompts plans stems, opens each side's way to its numbers with one of
// them, and lets the reference go on from them all.
func (s *sides) makePrompts(ctx context.Context) (made, error) {
	f := s.flags
	encode, tok, err := s.encoder()
	if err != nil {
		return made{}, err
	}
	m := made{probeText: "The ferry leaves the island at seven"}
	if m.probe, err = encode(ctx, m.probeText); err != nil {
		return m, fmt.Errorf("reference: tokenize: %w", err)
	}
	if len(m.probe) < 2 {
		return m, fmt.Errorf("reference: %q is %d tokens", m.probeText, len(m.probe))
	}
	m.probe = m.probe[:min(len(m.probe), 8)]
	if tok != nil {
		m.eos = tok.EOS()
	}
	if err := s.openAccess(ctx, m.probe); err != nil {
		return m, err
	}
	stems, scope, err := s.stems(ctx, encode, tok)
	if err != nil {
		return m, err
	}
	m.scope = append(scope, s.pathScope()...)
	o := verify.PromptOptions{Seed: f.seed, MaxTokens: f.maxTokens, Concurrency: f.concurrency, Progress: s.progress, Stage: "prompts"}
	var tokens [][]int
	for _, stem := range stems {
		tokens, m.from, m.kinds = append(tokens, stem.Tokens), append(m.from, len(stem.Tokens)), append(m.kinds, stem.Kind)
		o.Lengths, m.limits = append(o.Lengths, stem.Length), append(m.limits, stem.Length-len(stem.Tokens))
	}
	m.prompts, err = verify.BuildPrompts(ctx, s.recorded(s.reference, "", f.concurrency), tokens, o)
	if err != nil {
		return m, fmt.Errorf("reference: %w", err)
	}
	return m, nil
}

// encoder is the tokenizer that prompts are made with: a directory's, else the
// reference's own over HTTP.
func (s *sides) encoder() (func(context.Context, string) ([]int, error), *tokenizer.Tokenizer, error) {
	dir := s.flags.tokenizer
	for _, e := range []*end{s.reference, s.candidate} {
		if dir == "" {
			dir = e.dir
		}
	}
	if dir == "" {
		return s.reference.client.Tokenize, nil, nil
	}
	tok, err := tokenizer.Load(dir)
	if err != nil {
		return nil, nil, exitCode{exitUsage, err}
	}
	if s.vocab == 0 {
		s.vocab = vocabOf(dir)
	}
	return func(_ context.Context, text string) ([]int, error) { return tok.Encode(text), nil }, tok, nil
}

// openAccess finds each side's path.
func (s *sides) openAccess(ctx context.Context, probe []int) error {
	for _, e := range append([]*end{s.reference, s.candidate, s.floorEnd}, s.replicas...) {
		if e == nil {
			continue
		}
		e.client.Vocab = s.vocab
		var err error
		if e.access, err = e.client.Open(ctx, probe, s.flags.top); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		e.stack.Path = string(e.access.Path)
	}
	return nil
}

// pathScope says which sides were not asked the usual way.
func (s *sides) pathScope() []string {
	var out []string
	for _, e := range []*end{s.reference, s.candidate} {
		if p := e.access.Path; p != engine.PromptLogProbs {
			out = append(out, fmt.Sprintf("%s is scored over %s: %s", e.name, p, e.access.Closed[0].Reason))
		}
	}
	return out
}

// stems are the prompts' beginnings: the file's, or cut from the corpus.
func (s *sides) stems(ctx context.Context, encode func(context.Context, string) ([]int, error), tok *tokenizer.Tokenizer) ([]verify.Stem, []string, error) {
	f := s.flags
	if f.prompts != "" {
		return s.ownStems(ctx, encode)
	}
	o := verify.PlanOptions{Seed: f.seed, Count: f.count, MaxTokens: f.maxTokens, Longest: s.longest(), Long: f.long, Vocab: s.vocab}
	if tok != nil {
		o.Vocab = tok.Size() // what is beyond it pads the head
		for id := range tok.Size() {
			if tok.Special(id) {
				o.Avoid = append(o.Avoid, id)
			}
		}
	}
	var samples []verify.Sample
	var all []int
	for _, t := range verify.Corpus() {
		ids, err := encode(ctx, t.Text)
		if err != nil {
			return nil, nil, fmt.Errorf("reference: tokenize: %w", err)
		}
		if all = append(all, ids...); slices.Contains(f.strata, t.Kind) {
			samples = append(samples, verify.Sample{Kind: t.Kind, Tokens: ids})
		}
	}
	for _, kind := range []string{verify.KindLong, verify.KindOnPolicy} {
		if slices.Contains(f.strata, kind) {
			samples = append(samples, verify.Sample{Kind: kind, Tokens: all})
		}
	}
	return verify.PlanPrompts(samples, o)
}

// longest is what every side takes, with a token to spare.
func (s *sides) longest() int {
	most := s.flags.long + s.flags.maxTokens
	for _, e := range append([]*end{s.reference, s.candidate, s.floorEnd}, s.replicas...) {
		if e != nil && e.identity.MaxModelLen > 0 {
			most = min(most, e.identity.MaxModelLen-1)
		}
	}
	return most
}

func (s *sides) ownStems(ctx context.Context, encode func(context.Context, string) ([]int, error)) (stems []verify.Stem, scope []string, err error) {
	f := s.flags
	problems, err := reward.ReadProblems(f.prompts)
	if err != nil {
		return nil, nil, exitCode{exitUsage, err}
	}
	long := 0
	for _, p := range problems[:min(f.count, len(problems))] {
		ids, err := encode(ctx, p.Prompt)
		if err != nil {
			return nil, nil, fmt.Errorf("reference: tokenize: %w", err)
		}
		if len(ids) == 0 || len(ids)+f.maxTokens > s.longest() {
			long++
			continue
		}
		stems = append(stems, verify.Stem{Kind: "prompts", Tokens: ids, Length: len(ids) + f.maxTokens})
	}
	if long > 0 {
		scope = append(scope, fmt.Sprintf("%d prompts are empty or longer than the %d tokens that both sides take with %d to be written", long, s.longest(), f.maxTokens))
	}
	if len(stems) == 0 {
		return nil, nil, badUsage("%s: no prompt fits the context of %d tokens", f.prompts, s.longest())
	}
	return stems, scope, nil
}
