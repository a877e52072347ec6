package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarbert/internal/spec"
	"tarbert/internal/verify"
)

type verifyFlags struct {
	reference, candidate, floor      string
	replicas                         []string
	model                            string
	referenceModel, candidateModel   string
	referenceHeader, candidateHeader []string
	prompts, tokenizer, out          string
	stages, strata                   []string
	budget                           string
	count, maxTokens, long           int
	concurrency                      int
	timeout, patience                time.Duration
	seed                             uint64
	margin                           spec.Margin
	alpha, beta                      float64
	top                              int
	all, strict                      bool
	explain                          bool
	explainWith                      string
	watch                            watchFlags
}

// budgets are prompts, and tokens that the reference adds to each.
var budgets = map[string][2]int{"quick": {64, 64}, "standard": {192, 128}, "thorough": {512, 128}}

// The stages, as the flag names them.
var verifyStages = []string{"contract", "prefill", "decode", "reverse", "load"}

func (a *app) verifyCommand() *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify --reference R --candidate C",
		Short: "Ask whether two deployments are the same model, with error rates that hold",
		Long: `Each side is the URL of an OpenAI-compatible endpoint (vLLM, vllm-ascend, SGLang, llama-server, tarbert) or a model
directory, which the reference engine then serves for as long as it takes.

  contract  templates, tokenizer, parameters, what log-probabilities mean    reverse  the candidate's samples under the reference
  prefill   teacher-forced top-k divergence over strata                      load     the same prompts at concurrency 1, 32 and saturation,
  decode    both go on by themselves from the same places                             and on every --replica

The reference continues every prompt at temperature 1; both sides score the same tokens. How far is far is measured first: the floor.
Exit code 0 when the candidate is within the margins, 1 when it is not or when it cannot be told, with the reason.
The same command after an interruption goes on where it stopped. docs/howto/verify.md shows runs.`,
		Example: `  tarbert verify --reference http://gpu:8000 --candidate http://npu:8000 --tokenizer ./model
  tarbert verify --reference ./checkpoint --candidate ./converted --explain
  tarbert verify --watch --candidate http://npu:8000 --baseline .tarbert/verify/3f…/verify-evidence.json --every 1h`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.watch.on {
				return a.watch(c.Context(), f)
			}
			return a.verify(c.Context(), f)
		},
	}
	fl := c.Flags()
	fl.SortFlags = false
	fl.StringVar(&f.reference, "reference", "", "URL or model directory that is right")
	fl.StringVar(&f.candidate, "candidate", "", "URL or model directory that is judged")
	fl.StringVar(&f.floor, "floor", "", "URL or directory of another honest deployment of the reference; default: a directory again in bf16, else each side against itself")
	fl.StringArrayVar(&f.replicas, "replica", nil, "URL of one replica of the candidate (repeatable)")
	fl.StringSliceVar(&f.stages, "stages", verifyStages, "what to run")
	fl.StringSliceVar(&f.strata, "strata", verify.Kinds(), "kinds of prompts")
	fl.StringVar(&f.prompts, "prompts", "", `prompts of your own instead: JSON Lines of {"id","prompt","answer"}`)
	fl.StringVar(&f.budget, "budget", "standard", "quick (64 prompts × 64 tokens), standard (192 × 128) or thorough (512 × 128)")
	fl.IntVar(&f.count, "count", 0, "prompts; default: the budget's")
	fl.IntVar(&f.maxTokens, "max-tokens", 0, "tokens that the reference adds to each; default: the budget's")
	fl.IntVar(&f.long, "long", 4096, "tokens of a long-context prompt")
	fl.BoolVar(&f.all, "all", false, "ask every prompt, also when the verdict is certain before")
	fl.BoolVar(&f.strict, "strict", false, "refuse settings that may colour numbers (prefix caching) also where they did not")
	fl.BoolVar(&f.explain, "explain", false, "when it fails, look for the cause by experiments")
	fl.StringVar(&f.explainWith, "explain-with", "", `command that serves the candidate's model on {port}, to be tried again with other flags: "vllm serve ./model --port {port} …"`)
	fl.StringVar(&f.tokenizer, "tokenizer", "", "directory with tokenizer.json; default: a side that is a directory, else the reference's /tokenize")
	fl.StringVar(&f.model, "model", "", "model name to ask endpoints for; default: the first that they list")
	fl.StringVar(&f.referenceModel, "reference-model", "", "the reference's, where the names differ")
	fl.StringVar(&f.candidateModel, "candidate-model", "", "the candidate's, where the names differ")
	fl.StringArrayVar(&f.referenceHeader, "reference-header", nil, `HTTP header for the reference, "name: value" (repeatable); a bearer token also from TARBERT_REFERENCE_KEY`)
	fl.StringArrayVar(&f.candidateHeader, "candidate-header", nil, `HTTP header for the candidate (repeatable); a bearer token also from TARBERT_CANDIDATE_KEY`)
	fl.IntVar(&f.concurrency, "concurrency", 8, "requests in flight to each side")
	fl.DurationVar(&f.timeout, "timeout", 5*time.Minute, "for one request")
	fl.DurationVar(&f.patience, "patience", 30*time.Second, "how long a busy or absent endpoint is asked again")
	fl.StringVar(&f.out, "out", "", "directory for the evidence; default: one below the home, the same for the same command")
	fl.IntVar(&f.top, "top", 20, "k of the top-k divergence")
	fl.Uint64Var(&f.seed, "seed", 1, "seed of the prompts, the continuations and the bootstrap")
	fl.Float64Var(&f.margin.Typical, "margin-typical", 1.5, "largest typical divergence of a token as a multiple of the floor's; 0 = as --margin-ratio")
	fl.Float64Var(&f.margin.Ratio, "margin-ratio", 3, "largest mean divergence as a multiple of the floor; 0 = not used")
	fl.Float64Var(&f.margin.KL, "margin-kl", 0.005, "largest mean clipped divergence, nats per token; 0 = not used")
	fl.Float64Var(&f.margin.DeltaNLL, "margin-nll", 0.01, "largest |mean ΔNLL|, nats per token; 0 = not used")
	fl.Float64Var(&f.margin.Top1, "margin-top1", 0.97, "smallest share of equal top-1 tokens; 0 = not used")
	fl.Float64Var(&f.margin.Clip, "clip", 0.1, "nats at which a token's divergence is clipped")
	fl.Float64Var(&f.alpha, "alpha", 0.01, "chance of failing a candidate that is inside every margin, in the whole run")
	fl.Float64Var(&f.beta, "beta", 0.01, "chance of passing a candidate that is outside a margin")
	f.watch.add(fl)
	return c
}

// check refuses what no run can be made of.
func (f *verifyFlags) check() error {
	if f.reference == "" || f.candidate == "" {
		return badUsage("verify needs --reference and --candidate, each a URL (http://…) or a model directory")
	}
	b, ok := budgets[f.budget]
	if !ok {
		return badUsage("--budget is %q: quick, standard or thorough", f.budget)
	}
	if f.count == 0 {
		f.count = b[0]
	}
	if f.maxTokens == 0 {
		f.maxTokens = b[1]
	}
	if f.count < 1 || f.maxTokens < 1 || f.concurrency < 1 || f.long < 1 {
		return badUsage("--count, --max-tokens, --long and --concurrency must be at least 1")
	}
	if !(f.alpha >= 1e-6 && f.alpha <= 0.2 && f.beta >= 1e-3 && f.beta <= 0.2) {
		return badUsage("--alpha is %g and --beta %g: from 0.000001 and 0.001 to 0.2", f.alpha, f.beta)
	}
	for _, list := range []struct {
		flag  string
		given []string
		known []string
	}{{"--stages", f.stages, verifyStages}, {"--strata", f.strata, verify.Kinds()}} {
		for _, name := range list.given {
			if !slices.Contains(list.known, name) {
				return badUsage("%s has %q: it knows %s", list.flag, name, strings.Join(list.known, ", "))
			}
		}
	}
	if !f.runs("prefill") {
		return badUsage("--stages must have prefill: the others are judged by its floor")
	}
	if len(f.strata) == 0 && f.prompts == "" {
		return badUsage("--strata is empty and there is no --prompts: nothing to ask")
	}
	return nil
}

func (f *verifyFlags) runs(stage string) bool { return slices.Contains(f.stages, stage) }

func (a *app) verify(ctx context.Context, f verifyFlags) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	deps, done, err := a.deps(ctx)
	if err != nil {
		return err
	}
	defer done()
	s := &sides{app: a, deps: deps, flags: &f, prefix: "verify-" + a.now().UTC().Format("20060102t150405.000")}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	rep, err := s.run(ctx)
	if err != nil {
		if ctx.Err() != nil && s.out != "" {
			fmt.Fprintf(a.Err, "interrupted; the same command goes on where it stopped (%s)\n", relative(s.out))
		}
		return err
	}
	if a.json {
		err = a.printJSON(rep)
	} else {
		_, err = fmt.Fprint(a.Out, renderVerification(rep, rep.Evidence))
	}
	if err == nil && f.explain {
		err = s.explain(ctx, rep)
	}
	if err == nil && !rep.Gate.Passed() {
		err = gateSaidNo()
	}
	return err
}

// run is a verification from the opened sides to the evidence on disk. Only
// bad usage, the context's end and this machine's own failures are errors:
// what an endpoint does wrong is in the report.
func (s *sides) run(ctx context.Context) (*verify.Report, error) {
	f := s.flags
	show := s.parts()
	defer show.close()
	s.progress = show.progress
	show.begin("open")
	problem, err := s.openAll(ctx)
	if err != nil {
		return nil, err
	}
	if s.out, err = s.directory(); err != nil {
		return nil, err
	}
	in := verify.Input{
		Spec:    spec.Verify{Prompts: f.prompts, Count: f.count, Top: f.top, Alpha: f.alpha, Beta: f.beta, Margin: f.margin},
		Typical: f.margin.Typical, Seed: f.seed, OutDir: s.out, Now: s.now, Progress: s.progress, PerPart: true,
		Reference: verify.Side{Stack: s.reference.stack}, Candidate: verify.Side{Stack: s.candidate.stack},
	}
	if problem != nil {
		return verify.Unanswered(in, problem)
	}
	if s.journal, err = verify.OpenJournal(filepath.Join(s.out, verify.JournalFile), s.identity(), s.now); err != nil {
		return nil, err
	}
	if n := s.journal.Known(); n > 0 {
		fmt.Fprintf(s.Err, "  going on: %d answers are there already\n", n)
	}
	in.Journal = s.journal
	rep, err := s.judge(ctx, in)
	if err != nil {
		return nil, errors.Join(err, s.journal.Close())
	}
	s.last = in
	if rep.Failure != "" {
		return rep, s.journal.Close() // what came is not asked again
	}
	return rep, s.journal.Remove()
}

// judge makes the prompts and runs the stages.
func (s *sides) judge(ctx context.Context, in verify.Input) (*verify.Report, error) {
	f := s.flags
	s.journal.Stage("prompts")
	made, err := s.makePrompts(ctx)
	if err != nil {
		if code := (exitCode{}); errors.As(err, &code) || ctx.Err() != nil {
			return nil, err
		}
		return verify.Unanswered(in, err)
	}
	in.Prompts, in.From, in.Limits, in.Strata, in.Scope, in.Vocab = made.prompts, made.from, made.limits, made.kinds, made.scope, s.vocab
	s.made = made
	in.Reference, in.Candidate = s.side(s.reference), s.side(s.candidate)
	if s.floorEnd != nil {
		in.Floor = s.side(s.floorEnd)
	} else {
		in.Repeat = verify.RepeatOptions{Prompts: 16, Reference: s.alone(s.reference), Candidate: s.alone(s.candidate)}
	}
	in.Sequential = !f.all
	if f.runs("contract") {
		in.Probe = verify.ProbeOptions{Prompt: made.probe, Text: made.probeText, Top: f.top, Vocab: s.vocab, EOS: made.eos, Strict: f.strict}
	}
	if f.runs("decode") {
		in.Decode = verify.DecodeOptions{Prompts: max(24, f.count/4), Least: 1500}
	}
	if f.runs("reverse") {
		in.Reverse = verify.ReverseOptions{Prompts: min(64, f.count), Completer: s.recorded(s.candidate, "", f.concurrency)}
	}
	if f.runs("load") {
		in.Load = verify.LoadOptions{Prompts: max(32, f.count/4), Saturate: true, At: func(n int) verify.Scorer {
			return s.recorded(s.candidate, fmt.Sprintf(" at %d", n), n)
		}}
		for _, r := range s.replicas {
			in.Load.Replicas = append(in.Load.Replicas, s.side(r))
		}
	}
	for _, stage := range verifyStages {
		if !f.runs(stage) {
			in.Scope = append(in.Scope, stage+": not asked for")
		}
	}
	return verify.Run(ctx, in)
}

// directory is where the run's files are: the same for the same command, and a
// new one when that command has been finished there.
func (s *sides) directory() (string, error) {
	dir := s.flags.out
	if dir == "" {
		dir = filepath.Join(s.deps.Home, "verify", s.identity().short())
		if exists(filepath.Join(dir, verify.EvidenceFile)) && !exists(filepath.Join(dir, verify.JournalFile)) {
			dir += "-" + s.now().UTC().Format("20060102T150405")
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", environment(err)
	}
	return dir, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
