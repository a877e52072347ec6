package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarbert/internal/gate"
	"tarbert/internal/qualify"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/reference/trainer"
	"tarbert/internal/release"
	"tarbert/internal/spec"
)

// contractTrainer is a program of somebody's own that computes as the reference
// trainer does, on what it takes for a chip, with one thing about it that is not right.
func contractTrainer(ctx context.Context, kind string) error {
	env := trainer.Env{
		Events: os.Getenv("TARBERT_EVENTS"), Checkpoints: os.Getenv("TARBERT_CHECKPOINTS"), Resume: os.Getenv("TARBERT_RESUME"),
		Recipe: os.Getenv("TARBERT_RECIPE"), Replay: os.Getenv("TARBERT_REPLAY"),
	}
	if visible := os.Getenv("CUDA_VISIBLE_DEVICES"); !strings.HasPrefix(visible, "GPU-a0000000") {
		return fmt.Errorf("the chip that was planned is not the one that is visible: %q", visible)
	}
	switch kind {
	case "mute":
		env.Replay = ""
	case "dead":
		return errors.New("no kernel image is available for execution on the device")
	}
	said := env.Events
	if kind == "wrong-layer" || kind == "slow" {
		env.Events += ".true"
	}
	if err := trainer.Run(ctx, env); err != nil || said == env.Events {
		return err
	}
	from, err := os.Open(env.Events)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(said, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer to.Close()
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		var e map[string]any
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return err
		}
		switch layers, replays := e["layers"].(map[string]any); {
		case kind == "wrong-layer" && replays:
			layers["model.layers.1"] = layers["model.layers.1"].(float64) * 1.25
		case kind == "slow" && e["event"] == "step":
			<-time.After(200 * time.Millisecond) // a chip's time
		}
		if err := json.NewEncoder(to).Encode(e); err != nil {
			return err
		}
	}
	return lines.Err()
}

const chipModel = `{"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","vocab_size":258,"hidden_size":16,"intermediate_size":32,
"num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":8,"hidden_act":"silu","max_position_embeddings":64,
"rms_norm_eps":1e-06,"rope_theta":10000.0,"tie_word_embeddings":false,"attention_bias":false,"attention_dropout":0.0,"initializer_range":0.05,
"torch_dtype":"float32","eos_token_id":256,"bos_token_id":null,"pad_token_id":257,"use_cache":true}`

const chipRelease = `name: chips
pools:
  - {name: gpu, vendor: nvidia, roles: [preferred]}
  - {name: host, vendor: cpu, roles: [target]}
label: {annotations: annotations.jsonl}
plan: {deadline: 3s}
qualify: {twin_steps: 4}
train:
  trainer: command
  command: [PROGRAM, contract-trainer, KIND]
  model: model
  sft: {steps: 30, batch: 4, optimizer: {learning_rate: 3e-3, warmup: 3}}
convert: {formats: [bf16]}
verify: {margin: {ratio: 20, delta_nll: 0.01, top1: 0.9}}
compare: {problems: problems.jsonl, non_inferiority: 1, max_tokens: 8}
serve: {smoke: "1+1="}
`

// A whole release up to training in a pool of NVIDIA chips, which nvidia-smi's
// recorded answers stand for. The gate of qualify finds what is wrong with the
// trainer there, and lets the honest one train.
func TestAReleaseOnChips(t *testing.T) {
	for _, c := range []struct {
		kind    string
		waive   []spec.CheckWaiver
		stage   string // the last one
		verdict gate.Verdict
		says    []string
	}{
		{kind: "honest", stage: "train", verdict: gate.Pass},
		{kind: "wrong-layer", stage: "qualify", verdict: gate.Fail,
			says: []string{"parity: gradient norms by layer are", "model.layers.1 is farthest off"}},
		{kind: "slow", stage: "qualify", verdict: gate.Fail, says: []string{"speed:", "the deadline is 3.00 s", "are over it"}},
		{kind: "mute", stage: "qualify", verdict: gate.Inconclusive,
			says: []string{"does not know TARBERT_REPLAY, and trains instead", "bring-your-trainer"}},
		{kind: "mute", stage: "train", verdict: gate.Pass,
			waive: []spec.CheckWaiver{{Checks: []string{"parity"}, By: "the lead", Why: "ours does not replay"}}},
		{kind: "dead", stage: "qualify", verdict: gate.Inconclusive, says: []string{"parity: the trainer replayed nothing (exit code 1; it printed: no kernel image"}},
	} {
		name := c.kind
		if len(c.waive) > 0 {
			name += " and waived"
		}
		t.Run(name, func(t *testing.T) {
			res, text := runOnChips(t, c.kind, c.waive)
			last := res.Stages[len(res.Stages)-1]
			if last.Stage != c.stage || last.Gate.Verdict != c.verdict {
				t.Fatalf("ended at %s with %s, want %s with %s\n%s", last.Stage, last.Gate.Verdict, c.stage, c.verdict, text)
			}
			for _, want := range c.says {
				if !strings.Contains(last.Gate.Reason, want) {
					t.Errorf("the gate does not say %q:\n%s", want, last.Gate.Reason)
				}
			}
			if c.stage == "train" {
				qualified(t, res, len(c.waive) > 0)
			}
			if hint := "qualify: {waivers: [{checks: [parity"; strings.Contains(text, hint) != (c.verdict == gate.Inconclusive) {
				t.Errorf("what to write to go on without is said where it helps, or is not:\n%s", text)
			}
			t.Logf("\n%s", text)
		})
	}
}

// qualified holds the report of a pool that may train to what was asked.
func qualified(t *testing.T, res *release.Result, waived bool) {
	t.Helper()
	var rep qualify.Report
	for _, s := range res.Stages {
		if s.Stage != "qualify" {
			continue
		}
		b, err := os.ReadFile(s.Evidence)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &rep); err != nil {
			t.Fatal(err)
		}
	}
	if rep.Against == nil || len(rep.Against.Losses) != 4 || rep.Against.Apart != 0 || !rep.Against.SameData || rep.Against.Saved != rep.Against.Twin || rep.Against.Saved == 0 {
		t.Errorf("the same arithmetic is not the same: %+v", rep.Against)
	}
	if rep.Speed == nil || rep.Speed.Time == nil || !(rep.Speed.TokensPerSecond > 0) {
		t.Errorf("speed %+v", rep.Speed)
	}
	if waived {
		if rep.Parity != nil || len(rep.Unchecked) != 1 || len(rep.Waivers) != 1 || !strings.Contains(rep.Waivers[0], "waived by the lead without end: ours does not replay") {
			t.Errorf("unchecked %q, waivers %q", rep.Unchecked, rep.Waivers)
		}
		return
	}
	if rep.Parity == nil || !rep.Parity.Passed || rep.Parity.Batches != 4 || rep.Parity.LossGap != 0 || len(rep.Unchecked) != 0 {
		t.Errorf("parity %+v, unchecked %q", rep.Parity, rep.Unchecked)
	}
}

func runOnChips(t *testing.T, kind string, waive []spec.CheckWaiver) (*release.Result, string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	recorded, err := filepath.Abs("../device/nvidia/testdata/query_gpu_h100_8x_healthy.csv")
	if err != nil {
		t.Fatal(err)
	}
	write("bin/nvidia-smi", fmt.Sprintf("#!/bin/sh\ncase \"$1\" in *recovery*) exit 2;; esac\nexec cat %q\n", recorded), 0o755)
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	write("model/config.json", chipModel, 0o644)
	if err := tokenizer.WriteByteLevel(filepath.Join(dir, "model"), tokenizer.ByteLevelFiles{
		Added: []tokenizer.AddedToken{{Content: "<eos>", Special: true}, {Content: "<pad>", Special: true}}, EOS: "<eos>", PAD: "<pad>", ModelMax: 64,
	}); err != nil {
		t.Fatal(err)
	}
	var annotations, problems strings.Builder
	for i := range 24 {
		votes := `{"a":"good","b":"good"}`
		if i%4 == 0 {
			votes = `{"a":"bad","b":"bad"}`
		}
		fmt.Fprintf(&annotations, `{"id":"e%d","prompt":"%d+1=","completion":"%d","votes":%s}`+"\n", i, i, i+1, votes)
		fmt.Fprintf(&problems, `{"id":"p%d","prompt":"%d+2=","answer":"%d"}`+"\n", i, i, i+2)
	}
	write("annotations.jsonl", annotations.String(), 0o644)
	write("problems.jsonl", problems.String(), 0o644)

	var out, errs bytes.Buffer
	a := &app{IO: IO{Out: &out, Err: &errs}, home: filepath.Join(dir, "home"), threads: 1, now: time.Now}
	deps, done, err := a.deps(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	write("release.yaml", strings.NewReplacer("PROGRAM", filepath.Join(deps.Home, "bin", "tarbert"), "KIND", kind).Replace(chipRelease), 0o644)
	s, err := spec.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.Qualify.Waivers = waive
	res, err := release.Run(context.Background(), deps, s, release.Options{Until: "train"})
	if err != nil {
		t.Fatal(err)
	}
	return res, renderResult(res, release.Options{Until: "train"})
}
