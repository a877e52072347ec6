package trainer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarbert/internal/reference"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/reward"
	"tarbert/internal/spec"
)

// TestSoakSumsOnThreeSeeds carries out the recipe of examples/sums: SFT learns
// both styles, GRPO discovers that thinking first is what gets the reward.
func TestSoakSumsOnThreeSeeds(t *testing.T) {
	for seed := uint64(1); seed <= 3; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { learnSums(t, func(r *recipe) { r.Seed = seed }) })
	}
}

// TestSoakSumsOtherwise does so with GSPO, and with both objectives on rollouts
// of a quantised copy, as if another chip had drawn them.
func TestSoakSumsOtherwise(t *testing.T) {
	gspo := func(r *recipe) {
		r.Train.GRPO.Objective, r.Train.GRPO.ClipLow, r.Train.GRPO.ClipHigh = "gspo", 0.05, 0.05
	}
	far := GRPOOptions{Rollout: reference.W8A8, Replay: true}
	for name, change := range map[string]func(r *recipe){
		"gspo": gspo,
		"gspo, w8a8 rollouts": func(r *recipe) {
			gspo(r)
			r.Options.GRPO = far
			r.Options.GRPO.Correction = Correction{Truncate: 2, TruncateLevel: Sequence, MaskLow: 0.5, MaskHigh: 2, MaskLevel: Geometric}
		},
		"grpo, w8a8 rollouts, z-losses": func(r *recipe) {
			r.Options = Options{SFT: SFTOptions{ZLoss: 1e-4, RouterZLoss: 1e-3}, GRPO: far}
			r.Options.GRPO.Correction, r.Options.GRPO.ZLoss, r.Options.GRPO.RouterZLoss = Correction{Truncate: 2}, 1e-4, 1e-3
		},
	} {
		t.Run(name, func(t *testing.T) { learnSums(t, change) })
	}
}

// learnSums trains and holds the model after each stage to what it must know.
func learnSums(t *testing.T, change func(*recipe)) {
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("some minutes; make soak runs it")
	}
	release, err := spec.Load("../../../examples/sums")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := recipe{Recipe: spec.Recipe{Seed: 1, Dataset: filepath.Join(dir, "dataset.jsonl"), Train: release.Train, Threads: 2}}
	accepted(t, release.Label.Annotations, r.Dataset)
	change(&r)
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	env := Env{Events: filepath.Join(dir, "events"), Checkpoints: filepath.Join(dir, "checkpoints"), Recipe: filepath.Join(dir, "recipe.json")}
	if err := os.WriteFile(env.Recipe, b, 0o644); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := Run(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	at := func(step int) meters {
		return examine(t, filepath.Join(env.Checkpoints, fmt.Sprintf("step-%08d", step)), release.Compare.Problems, r.Recipe)
	}
	sft, grpo := at(r.Train.SFT.Steps), at(r.Steps())
	t.Logf("after SFT pass@1 %.3f, thinks %.3f; after RL pass@1 %.3f, thinks %.3f; %.1f s", sft.Reward, sft.Thinks, grpo.Reward, grpo.Thinks, took.Seconds())
	if sft.Reward < 0.3 || sft.Reward > 0.75 {
		t.Errorf("pass@1 after SFT is %.3f, want 0.3–0.75", sft.Reward)
	}
	if lift := grpo.Reward - sft.Reward; lift < 0.2 {
		t.Errorf("RL lifts pass@1 by %.3f, want 0.2 or more", lift)
	}
	if grpo.Thinks < 0.9 {
		t.Errorf("after RL %.3f of the answers think, want 0.9 or more", grpo.Thinks)
	}
}

// accepted writes the annotations that a majority judged good as a dataset.
func accepted(t *testing.T, annotations, dataset string) {
	t.Helper()
	in, err := os.Open(annotations)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var out strings.Builder
	for s := bufio.NewScanner(in); s.Scan(); {
		var a struct {
			example
			Votes map[string]*string `json:"votes"`
		}
		if err := json.Unmarshal(s.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		balance := 0
		for _, v := range a.Votes {
			switch {
			case v == nil:
			case *v == "good":
				balance++
			default:
				balance--
			}
		}
		if balance <= 0 {
			continue
		}
		b, err := json.Marshal(a.example)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(b, '\n'))
	}
	if err := os.WriteFile(dataset, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// examine samples four answers to every held-out problem at temperature 1.
func examine(t *testing.T, checkpoint, path string, r spec.Recipe) meters {
	t.Helper()
	m, err := reference.Load(checkpoint, reference.Options{Threads: r.Threads})
	tok, errTok := tokenizer.Load(checkpoint)
	check, errCheck := reward.NewChecker(r.Train.GRPO.Reward)
	all, errProblems := reward.ReadProblems(path)
	if err := errors.Join(err, errTok, errCheck, errProblems); err != nil {
		t.Fatal(err)
	}
	problems, err := readProblems(path, tok, len(all), m.Config().MaxPositionEmbeddings-r.Train.GRPO.MaxTokens)
	if err != nil {
		t.Fatal(err)
	}
	s := sampling{seed: r.Seed, samples: 4, maxTokens: r.Train.GRPO.MaxTokens, temperature: 1, eos: tok.EOS()}
	rollouts, err := roll(t.Context(), m, s, r.Steps(), problems)
	if err != nil {
		t.Fatal(err)
	}
	return judge(rollouts, problems, s.samples, check, tok).meters
}
