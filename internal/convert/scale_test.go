package convert_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tarbert/internal/convert"
	"tarbert/internal/tensor"
)

// large writes a directory with the tensors of a DeepSeek-V4.1 (about 96,000 of 300
// GB, scales counted) over 48 shards. The files are holes: only headers are there.
func large(t testing.TB, layers, experts int, hidden, inner int64) string {
	t.Helper()
	dir := t.TempDir()
	shards := make([][]tensor.Info, 48)
	n := 0
	add := func(name string, d tensor.DType, shape ...int64) {
		at := n / 16 % len(shards)
		shards[at] = append(shards[at], tensor.Info{Name: name, DType: d, Shape: shape})
		n++
	}
	pair := func(module string, out, in int64) {
		add(module+".weight", tensor.F8_E4M3, out, in)
		add(module+".weight_scale_inv", tensor.F32, (out+127)/128, (in+127)/128)
	}
	for l := range layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		add(p+"input_layernorm.weight", tensor.BF16, hidden)
		pair(p+"self_attn.o_proj", hidden, inner)
		add(p+"mlp.gate.weight", tensor.BF16, int64(experts), hidden)
		for e := range experts {
			q := fmt.Sprintf("%smlp.experts.%d.", p, e)
			pair(q+"gate_proj", inner, hidden)
			pair(q+"up_proj", inner, hidden)
			pair(q+"down_proj", hidden, inner)
		}
	}
	var index []tensor.Info
	shards = slices.DeleteFunc(shards, func(s []tensor.Info) bool { return len(s) == 0 })
	for i, infos := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		l, err := tensor.Plan(infos, nil)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), l.Header())
		if err := os.Truncate(filepath.Join(dir, name), l.Size); err != nil {
			t.Fatal(err)
		}
		for _, info := range l.Infos {
			info.File = name
			index = append(index, info)
		}
	}
	b, err := tensor.EncodeIndex(index)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, tensor.IndexName), b)
	write(t, filepath.Join(dir, "config.json"), []byte(`{"model_type":"deepseek_v3","num_hidden_layers":40,"torch_dtype":"bfloat16",
		"quantization_config":{"quant_method":"fp8","fmt":"e4m3","weight_block_size":[128,128]}}`))
	return dir
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// resident is the most memory that this process has had, in bytes, as Linux counts.
func resident() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("no VmHWM")
}

// TestPlanningIsQuick: 96,000 tensors are opened, paired and placed. The time is
// BenchmarkPlan's to tell; here it is only not minutes.
func TestPlanningIsQuick(t *testing.T) {
	dir := large(t, 40, 400, 5120, 2304)
	before := time.Now()
	p, err := convert.Plan(context.Background(), dir, convert.W8A8Ascend, convert.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(before); took > 20*time.Second {
		t.Errorf("planning took %v", took)
	}
	if len(p.Tensors) != 144_200 || p.PeakMemory > 256<<20 || p.Bands > 300_000 {
		t.Errorf("%d tensors, %d bands, %d bytes of memory", len(p.Tensors), p.Bands, p.PeakMemory)
	}
}

// BenchmarkPlan plans 96,120 tensors in 48 files.
func BenchmarkPlan(b *testing.B) {
	dir := large(b, 40, 400, 5120, 2304)
	for b.Loop() {
		if _, err := convert.Plan(context.Background(), dir, convert.W8A8Ascend, convert.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestPeakMemory converts in a process of its own, which says what it took at most.
func TestPeakMemory(t *testing.T) {
	for name, tt := range map[string]struct {
		src string
		to  string
	}{
		"many small":     {large(t, 40, 100, 16, 16), convert.W8A8Ascend},
		"few large":      {large(t, 1, 1, 4096, 4096), convert.W8A8Ascend},
		"few large bf16": {large(t, 1, 1, 4096, 4096), convert.BF16},
	} {
		p, err := convert.Plan(context.Background(), tt.src, tt.to, convert.Options{})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CONVERT_TEST_PEAK="+t.TempDir(), "CONVERT_TEST_SRC="+tt.src, "CONVERT_TEST_TO="+tt.to)
		before := time.Now()
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		took, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: planned %d MiB, took %d MiB, %v", name, p.PeakMemory>>20, took>>20, time.Since(before))
		if took > p.PeakMemory || took > 256<<20 {
			t.Errorf("%s: the plan says %d bytes, the process took %d", name, p.PeakMemory, took)
		}
	}
}
