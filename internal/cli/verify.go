package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"tarbert/internal/device"
	"tarbert/internal/engine"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/release"
	"tarbert/internal/reward"
	"tarbert/internal/spec"
	"tarbert/internal/verify"
)

type verifyFlags struct {
	reference, candidate string
	model                string
	prompts, tokenizer   string
	out                  string
	count, maxTokens     int
	seed                 uint64
	margin               spec.Margin
	top                  int
}

func (a *app) verifyCommand() *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify --reference R --candidate C --prompts FILE.jsonl",
		Short: "Compare two deployments' log-probabilities, with statistics",
		Long: `Each side is the URL of an OpenAI-compatible endpoint that answers prompt_logprobs, or a model directory, which
is then served by the reference engine for as long as it takes. The reference continues every prompt at temperature 1;
both sides score the same tokens. With a directory as reference, the floor is measured too: the reference in bf16
against itself in f32. Exit code 0 when the candidate is within the margin, 1 when not or when it cannot be told.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.verify(c.Context(), f) },
	}
	fl := c.Flags()
	fl.StringVar(&f.reference, "reference", "", "URL or model directory that is right")
	fl.StringVar(&f.candidate, "candidate", "", "URL or model directory that is judged")
	fl.StringVar(&f.prompts, "prompts", "", `JSON Lines of {"id","prompt","answer"}`)
	fl.StringVar(&f.tokenizer, "tokenizer", "", "directory with tokenizer.json; default: the side that is a directory")
	fl.StringVar(&f.model, "model", "", "model name to ask endpoints for; default: the first that they list")
	fl.StringVar(&f.out, "out", "", "directory for the evidence; default: a new one below the home")
	fl.IntVar(&f.count, "count", 200, "prompts to compare")
	fl.IntVar(&f.maxTokens, "max-tokens", 64, "tokens of each continuation")
	fl.IntVar(&f.top, "top", 20, "k of the top-k divergence")
	fl.Uint64Var(&f.seed, "seed", 1, "seed of the continuations and of the bootstrap")
	fl.Float64Var(&f.margin.Typical, "margin-typical", 1.5, "largest typical divergence of a token as a multiple of the floor's; 0 = as --margin-ratio")
	fl.Float64Var(&f.margin.Ratio, "margin-ratio", 3, "largest mean divergence as a multiple of the floor; 0 = not used")
	fl.Float64Var(&f.margin.KL, "margin-kl", 0.005, "largest mean clipped divergence, nats per token; 0 = not used")
	fl.Float64Var(&f.margin.DeltaNLL, "margin-nll", 0.01, "largest |mean ΔNLL|, nats per token; 0 = not used")
	fl.Float64Var(&f.margin.Top1, "margin-top1", 0.97, "smallest share of equal top-1 tokens; 0 = not used")
	fl.Float64Var(&f.margin.Clip, "clip", 0.1, "nats at which a token's divergence is clipped")
	return c
}

func (a *app) verify(ctx context.Context, f verifyFlags) (err error) {
	if f.reference == "" || f.candidate == "" || f.prompts == "" {
		return badUsage("verify needs --reference, --candidate (each a URL or a model directory) and --prompts FILE.jsonl")
	}
	deps, done, err := a.deps(ctx)
	if err != nil {
		return err
	}
	defer done()
	if f.out == "" {
		f.out = filepath.Join(deps.Home, "verify", a.now().UTC().Format("20060102T150405.000"))
	}
	if err := os.MkdirAll(f.out, 0o755); err != nil {
		return environment(err)
	}
	sides := sides{app: a, deps: deps, model: f.model, prefix: "verify-" + filepath.Base(strings.ToLower(f.out))}
	defer func() { err = errors.Join(err, sides.stop(ctx)) }()
	in := verify.Input{
		Spec:    spec.Verify{Prompts: f.prompts, Count: f.count, Top: f.top, Margin: f.margin},
		Typical: f.margin.Typical, Seed: f.seed, OutDir: f.out, Now: a.now, Progress: a.bar("verify"),
	}
	ref, err := sides.open(ctx, "reference", f.reference, "f32")
	if err != nil {
		return err
	}
	in.Reference = ref.side
	cand, err := sides.open(ctx, "candidate", f.candidate, "")
	if err != nil {
		return err
	}
	in.Candidate = cand.side
	if ref.dir != "" {
		floor, err := sides.open(ctx, "floor", f.reference, "bf16")
		if err != nil {
			return err
		}
		in.Floor = floor.side
	}
	if in.Prompts, in.From, err = buildPrompts(ctx, f, ref, cand); err != nil {
		return err
	}
	rep, err := verify.Run(ctx, in)
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(rep)
	} else {
		_, err = fmt.Fprint(a.Out, renderVerification(rep, filepath.Join(f.out, verify.EvidenceFile)))
	}
	if err == nil && !rep.Gate.Passed() {
		err = gateSaidNo()
	}
	return err
}

// buildPrompts returns the token ids to score and where in each the reference's own text begins.
func buildPrompts(ctx context.Context, f verifyFlags, ref, cand side) (prompts [][]int, from []int, err error) {
	dir := f.tokenizer
	for _, d := range []string{ref.dir, cand.dir} {
		if dir == "" {
			dir = d
		}
	}
	if dir == "" {
		return nil, nil, badUsage("both sides are URLs: name a directory with tokenizer.json by --tokenizer")
	}
	tok, err := tokenizer.Load(dir)
	if err != nil {
		return nil, nil, err
	}
	problems, err := reward.ReadProblems(f.prompts)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range problems[:min(max(f.count, 0), len(problems))] {
		ids := tok.Encode(p.Prompt)
		prompts, from = append(prompts, ids), append(from, len(ids))
	}
	prompts, err = verify.BuildPrompts(ctx, ref.client, prompts, verify.PromptOptions{Seed: f.seed, MaxTokens: f.maxTokens, Concurrency: 64})
	return prompts, from, err
}

// side is one end of a comparison.
type side struct {
	side   verify.Side
	client *engine.Client
	dir    string // set where it is a directory that we serve
}

// sides opens what --reference and --candidate name, and stops what it started.
type sides struct {
	*app
	deps   release.Deps
	model  string
	prefix string
	live   []*engine.Deployment
}

func (s *sides) stop(ctx context.Context) error {
	var errs []error
	for _, d := range s.live {
		errs = append(errs, d.Stop(context.WithoutCancel(ctx)))
	}
	return errors.Join(errs...)
}

func (s *sides) open(ctx context.Context, name, where, precision string) (side, error) {
	if u, err := url.Parse(where); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		return s.endpoint(ctx, name, where)
	}
	if _, err := os.Stat(where); err != nil {
		return side{}, badUsage("%s %q is neither a URL (http://…) nor a directory: %w", name, where, err)
	}
	dir, err := filepath.Abs(where)
	if err != nil {
		return side{}, environment(err)
	}
	host, err := s.processor(ctx)
	if err != nil {
		return side{}, err
	}
	dep := engine.Deployer{Executor: s.deps.Executors["local"], Engine: s.deps.Engines["reference"], Stage: name, Progress: s.bar(name)}
	d, err := dep.Deploy(ctx, s.prefix+"-"+name, engine.Model{Dir: dir, Name: name}, host, engine.Options{Precision: precision, Threads: s.cores()})
	if err != nil {
		return side{}, err
	}
	s.live = append(s.live, d)
	stack := verify.Stack{Name: name, Engine: "reference", Version: version(), Precision: precision, Device: host.Model, URL: d.URL}
	return side{side: verify.Side{Stack: stack, Scorer: d.Client()}, client: d.Client(), dir: dir}, nil
}

func (s *sides) endpoint(ctx context.Context, name, where string) (side, error) {
	c := &engine.Client{URL: strings.TrimSuffix(strings.TrimSuffix(where, "/"), "/v1"), Model: s.model}
	if c.Model == "" {
		models, err := c.Models(ctx)
		if err != nil {
			return side{}, environment(fmt.Errorf("%s %s: %w", name, where, err))
		}
		if len(models) == 0 {
			return side{}, environment(fmt.Errorf("%s %s lists no model", name, where))
		}
		c.Model = models[0].ID
	}
	v, err := c.Version(ctx)
	if err != nil {
		v = "" // not every engine tells; the evidence then lacks it
	}
	return side{side: verify.Side{Stack: verify.Stack{Name: c.Model, Version: v, URL: where}, Scorer: c}, client: c}, nil
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

func renderVerification(r *verify.Report, evidence string) string {
	interval := func(i verify.Interval) string { return fmt.Sprintf("%.3g  [%.3g, %.3g]", i.Value, i.Lower, i.Upper) }
	rows := [][]string{
		{"compared", fmt.Sprintf("%d tokens in %d prompts", r.Tokens, r.Prompts)},
		{"KL, nats per token", interval(r.KL)},
	}
	if r.FloorKL != nil {
		rows = append(rows, []string{"floor", interval(*r.FloorKL)})
	}
	if r.Ratio != nil {
		rows = append(rows, []string{"ratio to the floor", interval(*r.Ratio)})
	}
	rows = append(rows,
		[]string{"p50, p99, max", fmt.Sprintf("%.2g, %.2g, %.2g", r.Quantiles.P50, r.Quantiles.P99, r.Quantiles.Max)},
		[]string{"top-1 agreement", interval(r.Top1)},
		[]string{"ΔNLL", interval(r.DeltaNLL)},
		[]string{"signature", r.Signature},
		[]string{"evidence", relative(evidence)},
	)
	var b strings.Builder
	b.WriteString(table(rows))
	fmt.Fprintf(&b, "\n%s\n", strings.ToUpper(string(r.Gate.Verdict)))
	for _, c := range r.Gate.Checks {
		fmt.Fprintf(&b, "  %-12s  %s: %s\n", c.Verdict, c.Name, c.Detail)
	}
	return b.String()
}
