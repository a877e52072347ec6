package plan

import (
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const gib = Bytes(1 << 30)

// llamaRun is Llama 3 405B on 16,384 H100 (arXiv:2407.21783, table 4). That each
// pipeline stage holds its 8 layers as 8 virtual stages is our reading of §3.3.2.
func llamaRun() Workload {
	return Workload{
		Name: "llama3-405b", Shape: llama405(), DType: "bfloat16", Sequence: 8192, Batch: 2048, Tokens: 15.6e12, Attention: "causal",
		Layout: Layout{TP: 8, PP: 16, DP: 128, ZeRO: 2, Interleave: 8, Recompute: "none"}, Memory: MixedAdamW(),
	}
}

// deepseekRun is DeepSeek-V3 on 2,048 H800 (arXiv:2412.19437 §3.2): PP 16, EP 64, ZeRO 1.
func deepseekRun() Workload {
	return Workload{
		Name: "deepseek-v3", Shape: deepseekV3(), DType: "float8", Sequence: 4096, Batch: 15360, Tokens: 14.8e12, Attention: "causal",
		Layout: Layout{PP: 16, EP: 64, DP: 128, ZeRO: 1, Recompute: "selective"},
		Memory: Precision{Weights: 1.5, Gradients: 4, Optimizer: 8, Activation: 2},
	}
}

// Layouts that are known to have run fit; the ones nobody would try do not.
func TestMemoryOfPublishedRuns(t *testing.T) {
	for _, w := range []Workload{llamaRun(), deepseekRun()} {
		m, err := DeviceMemory(w.Shape, w.Layout, w.Sequence, w.Memory)
		if err != nil {
			t.Fatal(err)
		}
		if m.Total() > 80*gib || m.Total() < 20*gib {
			t.Errorf("%s: %v, ran on 80 GB devices", w.Name, m)
		}
	}
	bare := llamaRun()
	bare.Layout = Layout{TP: 8, DP: 2048}
	m, err := DeviceMemory(bare.Shape, bare.Layout, bare.Sequence, bare.Memory)
	if err != nil || m.Total() < 500*gib {
		t.Errorf("Llama 3 405B at TP 8 and nothing else takes %v (%v)", m.Total(), err)
	}
	// 405.85e9 parameters over TP 8 × PP 16, 2 bytes; the first stage has the embedding too.
	m, _ = DeviceMemory(llama405(), llamaRun().Layout, 8192, MixedAdamW())
	if ideal := 2 * 405.85e9 / 128; float64(m.Weights) < ideal || float64(m.Weights) > 1.1*ideal {
		t.Errorf("weights %v, an even share is %v", m.Weights, Bytes(ideal))
	}
}

func TestKVOfOneToken(t *testing.T) {
	// DeepSeek's own figures (arXiv:2505.09343 table 1): V3 70.272 KB, LLaMA-3.1 405B 516.096 KB, in bfloat16.
	if got := KVBytes(deepseekV3(), 2); got != 70272 {
		t.Errorf("DeepSeek-V3: %g bytes", float64(got))
	}
	if got := KVBytes(llama405(), 2); got != 516096 {
		t.Errorf("LLaMA-3.1 405B: %g bytes", float64(got))
	}
}

func TestFixesReallyFit(t *testing.T) {
	w := llamaRun()
	w.Layout = Layout{TP: 8, PP: 8, DP: 64, ZeRO: 1}
	room := 64 * gib
	m, err := DeviceMemory(w.Shape, w.Layout, w.Sequence, w.Memory)
	if err != nil || m.Total() <= room {
		t.Fatalf("%v (%v) should not fit %v", m, err, room)
	}
	got := fixes(w.Shape, w.Layout, w.Sequence, w.Memory, 0, room)
	if !slices.Contains(got, "raise TP to 16") {
		t.Errorf("fixes are %q", got)
	}
}

func TestLayoutsThatCannotBe(t *testing.T) {
	for want, l := range map[string]Layout{
		"tp 7": {TP: 7}, "pp 200": {PP: 200}, "no experts": {EP: 8}, "zero is 4": {ZeRO: 4}, "recompute": {Recompute: "some"}, "dp is -1": {DP: -1},
	} {
		if _, err := DeviceMemory(llama405(), l, 4096, MixedAdamW()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestMemoryFallsWithSharding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Layout{
			DP: 1 << rapid.IntRange(0, 8).Draw(t, "dp"), TP: 1 << rapid.IntRange(0, 5).Draw(t, "tp"), PP: 1 << rapid.IntRange(0, 5).Draw(t, "pp"),
			CP: 1 << rapid.IntRange(0, 3).Draw(t, "cp"), ZeRO: rapid.IntRange(0, 1).Draw(t, "zero"),
			Recompute: rapid.SampledFrom([]string{"none", "selective", "full"}).Draw(t, "recompute"),
		}
		one, err := DeviceMemory(llama405(), l, 8192, MixedAdamW())
		if err != nil {
			t.Fatal(err)
		}
		more := l
		more.ZeRO++
		two, err := DeviceMemory(llama405(), more, 8192, MixedAdamW())
		if err != nil {
			t.Fatal(err)
		}
		if states := func(m Memory) Bytes { return m.Weights + m.Gradients + m.Optimizer }; states(two) > states(one) {
			t.Fatalf("%v holds %v, %v holds %v", more, states(two), l, states(one))
		}
		wider := l
		wider.TP *= 2
		if three, err := DeviceMemory(llama405(), wider, 8192, MixedAdamW()); err == nil && three.Total() > one.Total() {
			t.Fatalf("TP %d takes %v, TP %d takes %v", wider.TP, three.Total(), l.TP, one.Total())
		}
	})
}

func h100Links() Links {
	return Links{Domain: 8, Inside: 450e9, Across: 50e9, Overlap: Range{Low: 0.5, High: 0.9}}
}

// Hold-out (training.md's protocol): one efficiency from the 8,192-GPU row,
// the 16,384-GPU row predicted. Published 400 TFLOP/s.
func TestScalingIsPredicted(t *testing.T) {
	small := llamaRun()
	small.Layout.DP = 64
	rate, err := KernelRate(small, 989e12, 430.0/989, h100Links(), 0.7)
	if err != nil {
		t.Fatal(err)
	}
	big, err := Step(llamaRun(), rate, h100Links(), 0.7)
	if err != nil {
		t.Fatal(err)
	}
	work, err := llamaRun().FLOPs()
	if err != nil {
		t.Fatal(err)
	}
	got := float64(work.Over(1)) / (float64(big.Total()) * 16384) / 1e12
	t.Logf("predicted %.1f TFLOP/s at 16,384, published 400; step %+v", got, big)
	if math.Abs(got/400-1) > 0.03 {
		t.Errorf("predicted %.1f TFLOP/s per GPU at 16,384 from 430 at 8,192, published 400", got)
	}
}

// Twice the devices never lengthen a step unless communication is what is stated.
func TestDoublingDevices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := llamaRun()
		w.Layout.PP = 1 << rapid.IntRange(0, 5).Draw(t, "pp")
		w.Layout.DP = 1 << rapid.IntRange(0, 9).Draw(t, "dp")
		links := h100Links()
		links.Across = Bandwidth(rapid.Float64Range(1e8, 1e11).Draw(t, "across"))
		one, err := Step(w, 500e12, links, 0.5)
		if err != nil {
			t.Fatal(err)
		}
		w.Layout.DP *= 2
		two, err := Step(w, 500e12, links, 0.5)
		if err != nil {
			t.Fatal(err)
		}
		if two.Total() > one.Total() && !strings.Contains(two.Limit(), "communication") {
			t.Fatalf("DP %d: %v (%+v), before %v (%+v); it says %s", w.Layout.DP, two.Total(), two, one.Total(), one, two.Limit())
		}
	})
}

func TestStepSaysWhatIsWrong(t *testing.T) {
	w := llamaRun()
	w.Batch = 16
	if _, err := Step(w, 1e15, h100Links(), 0.5); err == nil || !strings.Contains(err.Error(), "micro-batches") {
		t.Errorf("16 sequences over DP 128: %v", err)
	}
	slow := h100Links()
	slow.Across = 1e8
	if _, err := KernelRate(llamaRun(), 989e12, 0.43, slow, 0.5); err == nil || !strings.Contains(err.Error(), "communication alone takes") {
		t.Errorf("an MFU that the links do not allow: %v", err)
	}
}
