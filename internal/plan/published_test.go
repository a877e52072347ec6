package plan

import (
	"encoding/csv"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/google/go-cmp/cmp"
)

// publishedRow is one printed figure and what our formulas give for it.
type publishedRow struct {
	run, figure         string
	published, computed float64
	convention          string
	leftOut             string // why it does not count; empty if it does
}

func readTable(t *testing.T, name string) []map[string]string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "tables", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comment, r.FieldsPerRecord, r.LazyQuotes = '#', -1, true
	lines, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var rows []map[string]string
	for _, l := range lines[1:] {
		row := map[string]string{}
		for i, field := range l {
			if i < len(lines[0]) {
				row[lines[0][i]] = field
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func number(t *testing.T, row map[string]string, column string) float64 {
	t.Helper()
	x, err := strconv.ParseFloat(row[column], 64)
	if err != nil {
		t.Fatalf("column %s of %v: %v", column, row, err)
	}
	return x
}

func gpt(layers, hidden, heads, vocabulary int) ModelShape {
	return ModelShape{
		Type: "gpt", Layers: layers, Hidden: hidden, Vocabulary: vocabulary, Tied: true, Intermediate: 4 * hidden, MLPMatrices: 2,
		Heads: heads, KVHeads: heads, QK: hidden / heads, V: hidden / heads,
	}
}

func llama405() ModelShape {
	return ModelShape{
		Type: "llama", Layers: 126, Hidden: 16384, Vocabulary: 128256, Intermediate: 53248, Heads: 128, KVHeads: 8, QK: 128, V: 128,
	}
}

func deepseekV2() ModelShape {
	return ModelShape{
		Type: "deepseek_v2", Layers: 60, Hidden: 5120, Vocabulary: 102400, Intermediate: 12288, Heads: 128, KVHeads: 128, QK: 192, V: 128,
		QLoraRank: 1536, KVLoraRank: 512, QKRope: 64, MoELayers: 59, Experts: 160, ExpertsPerToken: 6, SharedExperts: 2, ExpertIntermediate: 1536,
	}
}

func qwen72() ModelShape {
	return ModelShape{
		Type: "llama", Layers: 80, Hidden: 8192, Vocabulary: 152064, Intermediate: 24576, Heads: 64, KVHeads: 64, QK: 128, V: 128,
	}
}

var (
	modelFull    = Convention{Count: "model", Attention: "full", WorkDType: "bfloat16", PeakDType: "bfloat16"}
	modelCausal  = Convention{Count: "model", Attention: "causal", WorkDType: "bfloat16", PeakDType: "bfloat16"}
	hardwareFull = Convention{Count: "hardware", Attention: "full", WorkDType: "bfloat16", PeakDType: "bfloat16"}
	fp8Causal    = Convention{Count: "model", Attention: "causal", WorkDType: "float8", PeakDType: "bfloat16"}
	fp8Full      = Convention{Count: "model", Attention: "full", WorkDType: "float8", PeakDType: "bfloat16"}
)

func perToken(t *testing.T, s ModelShape, sequence float64, c Convention, mtp bool) FLOPs {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	w, err := WorkPerToken(s, sequence, c, mtp)
	if err != nil {
		t.Fatal(err)
	}
	return w.Total()
}

func megascaleRows(t *testing.T) (rows []publishedRow) {
	work := perToken(t, gpt(96, 12288, 128, 51200), 2048, modelFull, false)
	for _, r := range readTable(t, "megascale_strong_scaling.csv") {
		gpus := number(t, r, "gpus")
		run := fmt.Sprintf("%s 175B, %.0f A100", r["system"], gpus)
		out := ""
		if r["system"] == "MegaScale" {
			out = "attends to a sliding window whose width is not given"
		}
		rate := number(t, r, "batch") * 2048 / number(t, r, "iter_s")
		rows = append(rows, publishedRow{
			run: run, figure: "MFU %", published: number(t, r, "mfu_pct"), convention: modelFull.String(), leftOut: out,
			computed: 100 * Utilization(work, rate, int(gpus), 312e12),
		}, publishedRow{
			run: run, figure: "days for 300B", published: number(t, r, "days_300B"),
			computed: float64(TrainingDeviceHours(300e9, work, 312e12, Utilization(work, rate, int(gpus), 312e12))) / gpus / 24,
		})
		pflops, mfu := number(t, r, "agg_pflops"), number(t, r, "mfu_pct")
		if agg := mfu / 100 * gpus * 312e12 / 1e15; math.Abs(agg/pflops-1) > 0.01 {
			rows = append(rows, publishedRow{
				run: run, figure: "aggregate PFLOP/s", published: pflops, computed: agg, convention: "MFU × GPUs × peak",
				leftOut: "the column contradicts its own row's MFU",
			})
		}
	}
	return rows
}

func deepseekRows(t *testing.T) (rows []publishedRow) {
	v := map[string]float64{}
	for _, r := range readTable(t, "deepseek_v3.csv") {
		v[r["item"]] = number(t, r, "value")
	}
	for _, m := range []struct {
		run, item, out string
		shape          ModelShape
	}{
		{"DeepSeek-V2 236B", "gflops_per_token_deepseek_v2_236b", "", deepseekV2()},
		{"DeepSeek-V3 671B", "gflops_per_token_deepseek_v3_671b", "", deepseekV3()},
		{"LLaMA-3.1 405B", "gflops_per_token_llama_405b", "", llama405()},
		{"Qwen-72B", "gflops_per_token_qwen_72b", "no convention gives it: the matrices alone are 426", qwen72()},
	} {
		rows = append(rows, publishedRow{
			run: m.run, figure: "GFLOP/token", published: v[m.item], convention: modelCausal.String(), leftOut: m.out,
			computed: float64(perToken(t, m.shape, 4096, modelCausal, false)) / 1e9,
		})
	}
	const gpus, h800 = 2048, 989e12
	rate := v["tokens_per_day"] * 1e9 / 86400
	hoursPerT := 1e12 / rate * gpus / 3600
	add := func(figure string, published, computed float64, convention string) {
		rows = append(rows, publishedRow{run: "DeepSeek-V3, 2048 H800", figure: figure, published: published, computed: computed, convention: convention})
	}
	add("MFU % causal", v["mfu_causal"], 100*Utilization(perToken(t, deepseekV3(), 4096, fp8Causal, false), rate, gpus, h800), fp8Causal.String())
	add("MFU % full", v["mfu_noncausal"], 100*Utilization(perToken(t, deepseekV3(), 4096, fp8Full, false), rate, gpus, h800), fp8Full.String())
	add("GPU-hours per T", v["gpu_hours_per_T_tokens"], hoursPerT, "from tokens per day")
	add("days per T", v["days_per_T_tokens_on_2048"], hoursPerT/gpus/24, "from tokens per day")
	add("pre-training GPU-hours", v["pretraining_gpu_hours"], v["pretrain_tokens"]*hoursPerT, "from tokens per day")
	add("total GPU-hours", v["total_gpu_hours"], v["pretrain_tokens"]*hoursPerT+v["context_extension_gpu_hours"]+v["post_training_gpu_hours"], "from tokens per day")
	return rows
}

func denseRows(t *testing.T) (rows []publishedRow) {
	for _, r := range readTable(t, "dense_runs.csv") {
		switch r["model"] {
		case "BLOOM":
			rate := number(t, r, "batch") * number(t, r, "seq") / number(t, r, "iter_s")
			work := perToken(t, gpt(70, 14336, 112, 250880), number(t, r, "seq"), hardwareFull, false)
			rows = append(rows, publishedRow{
				run: "BLOOM 176B, 384 A100", figure: "TFLOP/s per GPU", published: number(t, r, "published_tflops"),
				computed: float64(work) * rate / 384 / 1e12, convention: hardwareFull.String(),
			})
		case "OPT-175B":
			total := number(t, r, "tokens_B") * 1e9 * float64(perToken(t, gpt(96, 12288, 96, 50272), number(t, r, "seq"), hardwareFull, false))
			rows = append(rows, publishedRow{
				run: "OPT-175B, 1024 A100", figure: "ZFLOP", published: 430, computed: total / 1e21, convention: hardwareFull.String(),
			}, publishedRow{
				run: "OPT-175B, 1024 A100", figure: "days", published: 33, convention: hardwareFull.String(),
				computed: total / (1024 * number(t, r, "published_tflops") * 1e12) / 86400,
			})
		case "GLM-130B":
			rows = append(rows, publishedRow{run: "GLM-130B, 768 A100", figure: "MFU %", published: math.NaN(), computed: math.NaN(), leftOut: "only the elapsed 60 days are printed, stops included"})
		}
	}
	return rows
}

func otherRows(t *testing.T) (rows []publishedRow) {
	for i, r := range readTable(t, "llama3_405b_mfu.csv") {
		out := "printed in whole percent of its own TFLOP/s: no step time to count from"
		if i == 1 {
			out = "prints 41 where 400/989 is 40.4"
		}
		if dp, want := number(t, r, "dp_printed"), number(t, r, "gpus")/number(t, r, "tp")/number(t, r, "cp")/number(t, r, "pp"); dp != want {
			out = fmt.Sprintf("prints DP %.0f where the layout needs %.0f", dp, want)
		}
		rows = append(rows, publishedRow{
			run: fmt.Sprintf("Llama 3 405B, %s H100, context %s", r["gpus"], r["seq_len"]), figure: "MFU %",
			published: number(t, r, "bf16_mfu_pct"), computed: number(t, r, "tflops_per_gpu") / 989 * 100, leftOut: out,
		})
	}
	total := 0.0
	interruptions := readTable(t, "llama3_405b_interruptions.csv")
	for _, r := range interruptions {
		total += number(t, r, "count")
	}
	faulty := interruptions[0]
	rows = append(rows, publishedRow{
		run: "Llama 3 405B", figure: "faulty GPU, % of interruptions", published: number(t, faulty, "pct_printed"),
		computed: 100 * number(t, faulty, "count") / total, leftOut: "the printed share contradicts the count beside it",
	})
	for _, r := range readTable(t, "pangu_ascend.csv") {
		if r["mfu_pct"] == "" {
			continue
		}
		rows = append(rows, publishedRow{
			run: r["model"] + ", " + r["npus"] + " NPUs", figure: "MFU %", published: number(t, r, "mfu_pct"), computed: math.NaN(),
			leftOut: "peak and convention are not stated (910B is sold at 280, 313 and 376 TFLOP/s)",
		})
	}
	return rows
}

// Every figure of the tables that the formulas can speak of, with its
// convention; those with full information within 1 % on average.
func TestPublishedRows(t *testing.T) {
	var rows []publishedRow
	for _, part := range [][]publishedRow{megascaleRows(t), deepseekRows(t), denseRows(t), otherRows(t)} {
		rows = append(rows, part...)
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "run\tfigure\tpublished\tcomputed\terror\tcounted by, or why left out")
	var sum float64
	var workSum float64
	counted, byWork, most := 0, 0, 0.0
	for _, r := range rows {
		off := r.computed/r.published - 1
		note := r.convention
		if r.leftOut != "" {
			note = "LEFT OUT: " + r.leftOut
		} else {
			counted++
			sum += math.Abs(off)
			most = max(most, math.Abs(off))
			if strings.Contains(r.convention, "FLOPs") {
				byWork++
				workSum += math.Abs(off)
			}
		}
		percent := "–"
		if !math.IsNaN(off) {
			percent = fmt.Sprintf("%+.2f %%", 100*off)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.run, r.figure, trim4(r.published), trim4(r.computed), percent, note)
	}
	_ = w.Flush()
	mean := 100 * sum / float64(counted)
	fmt.Fprintf(&b, "\n%d figures with full information: mean absolute error %.2f %%, largest %.2f %%; %d left out\n", counted, mean, 100*most, len(rows)-counted)
	mean2 := 100 * workSum / float64(byWork)
	fmt.Fprintf(&b, "of them %d rest on counted FLOPs: mean absolute error %.2f %%; the others are arithmetic on printed rates\n", byWork, mean2)
	golden(t, "published.golden", trimLines(b.String()))
	if counted < 26 || mean > 1 || byWork < 16 || mean2 > 1 || most > 0.02 {
		t.Errorf("%d figures counted (want 26 or more), mean error %.2f %% (at most 1), largest %.2f %% (at most 2)", counted, mean, 100*most)
	}
}

func trim4(x float64) string {
	if math.IsNaN(x) {
		return "–"
	}
	return strconv.FormatFloat(x, 'g', 4, 64)
}

// golden compares with a file of testdata and rewrites it under -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s: run go test -update and read what changed (-want +got):\n%s", name, cmp.Diff(string(want), got))
	}
}

// Conventions are not decoration: each changes the figure by what its name says.
func TestConventions(t *testing.T) {
	s := llama405()
	full, causal := perToken(t, s, 8192, modelFull, false), perToken(t, s, 8192, modelCausal, false)
	attention := FLOPs(6 * 126 * 8192 * 128 * 256.0)
	if got := full - causal; math.Abs(float64(got/(attention/2))-1) > 1e-9 {
		t.Errorf("full − causal is %v, half the square is %v", got, attention/2)
	}
	hard := perToken(t, s, 8192, hardwareFull, false)
	if ratio := float64(hard / full); ratio < 1.32 || ratio >= 4.0/3 {
		t.Errorf("recomputation multiplies by %.4f, want just under 4/3: the head is not run again", ratio)
	}
	wide := s
	wide.Window = 8192
	if perToken(t, wide, 8192, modelCausal, false) != causal {
		t.Error("a window as wide as the sequence changes the work")
	}
	wide.Window = 1024
	w, err := WorkPerToken(wide, 8192, modelCausal, false)
	if want := FLOPs(6 * 126 * (1024 - 64) * 128 * 256.0); err != nil || math.Abs(float64(w.Attention/want)-1) > 1e-12 {
		t.Errorf("window 1024: attention %v, want %v (%v)", w.Attention, want, err)
	}
	v3 := deepseekV3()
	if extra := float64(perToken(t, v3, 4096, modelCausal, true)/perToken(t, v3, 4096, modelCausal, false)) - 1; extra < 0.03 || extra > 0.08 {
		t.Errorf("one MTP layer adds %.3f of the work", extra)
	}
	for _, c := range []Convention{{Count: "both", Attention: "full"}, {Count: "model", Attention: "half"}} {
		if _, err := WorkPerToken(s, 4096, c, false); err == nil {
			t.Errorf("convention %+v was accepted", c)
		}
	}
}

func TestShapesThatContradictThemselves(t *testing.T) {
	for field, edit := range map[string]func(*ModelShape){
		"num_hidden_layers": func(s *ModelShape) { s.Layers = 0 }, "hidden_size": func(s *ModelShape) { s.Hidden = -1 },
		"num_key_value_heads": func(s *ModelShape) { s.KVHeads = 3 }, "moe_layers": func(s *ModelShape) { s.MoELayers = 200 },
		"num_experts_per_tok": func(s *ModelShape) { s.ExpertsPerToken = 2 }, "mlp_matrices": func(s *ModelShape) { s.MLPMatrices = 4 },
		"intermediate_size": func(s *ModelShape) { s.Intermediate = 0 }, "sliding_window": func(s *ModelShape) { s.Window = -1 },
		"qk_rope_head_dim": func(s *ModelShape) { s.KVLoraRank, s.QKRope = 512, 128 },
	} {
		s := llama405()
		edit(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
