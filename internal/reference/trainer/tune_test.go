package trainer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarbert/internal/reference"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/reward"
	"tarbert/internal/spec"
)

func cpu() float64 {
	var u syscall.Rusage
	syscall.Getrusage(0, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

func envf(name string, def float64) float64 {
	if s := os.Getenv(name); s != "" {
		v, _ := strconv.ParseFloat(s, 64)
		return v
	}
	return def
}

func TestTune(t *testing.T) {
	dir := os.Getenv("TUNE_DIR")
	if dir == "" {
		t.Skip()
	}
	seed := uint64(envf("SEED", 1))
	tmp := t.TempDir()
	model := filepath.Join(tmp, "model")
	os.MkdirAll(model, 0o755)
	src := "/work/main/examples/sums/model"
	cfg, err := os.ReadFile(filepath.Join(src, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	cfg = []byte(strings.ReplaceAll(string(cfg), `"initializer_range": 0.02`, fmt.Sprintf(`"initializer_range": %g`, envf("INIT", 0.02))))
	if s := os.Getenv("CFG"); s != "" {
		kv := strings.Split(s, ",")
		for _, x := range kv {
			p := strings.Split(x, "=")
			i := strings.Index(string(cfg), `"`+p[0]+`":`)
			j := i + strings.Index(string(cfg[i:]), ",")
			cfg = []byte(string(cfg[:i]) + `"` + p[0] + `": ` + p[1] + string(cfg[j:]))
		}
	}
	os.WriteFile(filepath.Join(model, "config.json"), cfg, 0o644)
	for _, n := range []string{"tokenizer.json", "tokenizer_config.json"} {
		b, _ := os.ReadFile(filepath.Join(src, n))
		os.WriteFile(filepath.Join(model, n), b, 0o644)
	}
	n := int(envf("SFT", 400))
	g := int(envf("GRPO", 30))
	r := spec.Recipe{Seed: seed, Dataset: filepath.Join(dir, map[bool]string{true: os.Getenv("DATA"), false: "data2.jsonl"}[os.Getenv("DATA") != ""]), Threads: int(envf("THREADS", 2)), Train: spec.Train{Model: model, Checkpoint: spec.Checkpoint{Every: 50, Keep: 3},
		SFT: spec.SFT{Steps: n, Batch: int(envf("BATCH", 64)), RouterBias: envf("BIAS", 0.001), Optimizer: spec.Optimizer{LearningRate: envf("LR", 3e-3), Warmup: int(envf("WARM", 30)), Floor: envf("FLOOR", 0.2), Betas: [2]float64{0.9, envf("B2", 0.99)}, Epsilon: 1e-8, WeightDecay: envf("WD", 0.01), Clip: 1}},
		GRPO: spec.GRPO{Steps: g, Problems: "/work/main/examples/sums/data/problems.jsonl", Reward: "answer", Prompts: int(envf("PROMPTS", 32)), Samples: int(envf("SAMPLES", 8)), MaxTokens: 48, Temperature: 1, ClipLow: 0.2, ClipHigh: 0.28, Objective: "grpo",
			Optimizer: spec.Optimizer{LearningRate: envf("GLR", 1e-4), Warmup: 10, Floor: 1, Betas: [2]float64{0.9, 0.99}, Epsilon: 1e-8, Clip: 1}}}}
	b, _ := json.Marshal(r)
	rp := filepath.Join(tmp, "recipe.json")
	os.WriteFile(rp, b, 0o644)
	env := Env{Events: filepath.Join(tmp, "ev"), Checkpoints: filepath.Join(tmp, "ck"), Recipe: rp, StopAfter: n}
	c0, t0 := cpu(), time.Now()
	err = Run(t.Context(), env)
	fmt.Printf("seed %d sft: %v wall %.1f cpu %.1f\n", seed, err, time.Since(t0).Seconds(), cpu()-c0)
	show(t, filepath.Join(tmp, "ck", fmt.Sprintf("step-%08d", n)), dir, seed)
	if g == 0 {
		return
	}
	env.StopAfter = 0
	env.Resume = filepath.Join(tmp, "ck", fmt.Sprintf("step-%08d", n))
	c0, t0 = cpu(), time.Now()
	err = Run(t.Context(), env)
	fmt.Printf("seed %d grpo: %v wall %.1f cpu %.1f\n", seed, err, time.Since(t0).Seconds(), cpu()-c0)
	show(t, filepath.Join(tmp, "ck", fmt.Sprintf("step-%08d", n+g)), dir, seed)
	ev, _ := os.ReadFile(env.Events)
	if os.Getenv("EV") != "" {
		for _, l := range strings.Split(string(ev), "\n") {
			if strings.Contains(l, `"grpo"`) || strings.Contains(l, "mismatch") || strings.Contains(l, "0,\"stage\":\"sft\"") {
				fmt.Println(l)
			}
		}
	}
}

func show(t *testing.T, ck, dir string, seed uint64) {
	m, err := reference.Load(ck, reference.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	tok, _ := tokenizer.Load(ck)
	check, _ := reward.NewChecker("answer")
	ps, err := readProblems("/work/main/examples/sums/data/held-out.jsonl", tok, 200, 64)
	if err != nil {
		t.Fatal(err)
	}
	sam, err := roll(t.Context(), m, sampling{seed: seed, samples: 4, maxTokens: 64, temperature: 1, eos: tok.EOS()}, 1<<20, ps)
	if err != nil {
		t.Fatal(err)
	}
	j := judge(sam, ps, 4, check, tok)
	gr, _ := roll(t.Context(), m, sampling{seed: seed, samples: 1, maxTokens: 64, temperature: 0, eos: tok.EOS()}, 0, ps)
	jg := judge(gr, ps, 1, check, tok)
	fmt.Printf("   pass@1 %.3f thinks %.3f len %.1f cut %.3f | greedy %.3f thinks %.3f   e.g. %q\n", j.meters.Reward, j.meters.Thinks, j.meters.Length, j.meters.Cut, jg.meters.Reward, jg.meters.Thinks, sam[0].completion(tok))
}
