package convert_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/convert"
	"tarbert/internal/progress"
	"tarbert/internal/tensor"
)

const (
	deepseek = "testdata/golden/deepseek-v3"
	qwenMoE  = "testdata/golden/qwen3-moe"
)

// ofFloat are the formats that a float model can be converted to.
func ofFloat() []string {
	return slices.DeleteFunc(convert.Formats(), func(f string) bool { return f == convert.FP8 || strings.HasPrefix(f, "gguf") })
}

// listing maps every file of a directory to its content.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			out[e.Name()] = string(read(t, filepath.Join(dir, e.Name())))
		}
	}
	return out
}

// clone copies a model to a directory that may be changed.
func clone(t *testing.T, src string) string {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "clone")
	if err := os.CopyFS(dst, os.DirFS(src)); err != nil {
		t.Fatal(err)
	}
	return dst
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// reweigh rewrites the single weights file of a directory through change.
func reweigh(t *testing.T, dir, name string, change func(all map[string]tensor.Tensor)) {
	t.Helper()
	path := filepath.Join(dir, name)
	f, err := tensor.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]tensor.Tensor{}
	for _, i := range f.Infos() {
		b, err := f.Bytes(i.Name)
		if err != nil {
			t.Fatal(err)
		}
		all[i.Name] = tensor.Tensor{Name: i.Name, DType: i.DType, Shape: i.Shape, Data: b}
	}
	change(all)
	if err := tensor.WriteFile(path, slices.Collect(maps.Values(all)), f.Metadata()); err != nil {
		t.Fatal(err)
	}
}

func setFloat(t tensor.Tensor, i int, v float32) {
	b := tensor.FromFloat32("", nil, []float32{v}, t.DType).Data
	copy(t.Data[i*len(b):], b)
}

func TestDeepSeekConvertsAndChecks(t *testing.T) {
	for _, src := range []string{deepseek, qwenMoE} {
		for _, format := range ofFloat() {
			t.Run(filepath.Base(src)+"/"+format, func(t *testing.T) {
				dst, rep := mustConvert(t, src, format, convert.Options{})
				check, err := convert.Check(context.Background(), src, dst)
				if err != nil || !check.Passed() {
					t.Fatalf("%v, %v", check, err)
				}
				if !check.Recorded || check.Format != format || check.Tensors != rep.Totals.Tensors || check.BytesOut != rep.Totals.BytesOut {
					t.Errorf("check %+v\ntotals %+v", check, rep.Totals)
				}
				// Two independent measurements of the same loss.
				if math.Abs(check.WorstSQNR-rep.Totals.WorstSQNR) > 1e-9 || check.WorstTensor != rep.Totals.WorstTensor {
					t.Errorf("check measured %v (%s), the conversion %v (%s)", check.WorstSQNR, check.WorstTensor, rep.Totals.WorstSQNR, rep.Totals.WorstTensor)
				}
				usual := map[string][2]float64{ // dB
					convert.BF16: {50, 60}, convert.W8A8Ascend: {35, 50}, convert.W8A8Compressed: {35, 50}, convert.FP8Block: {28, 34},
				}[format]
				if w := rep.Totals.WorstSQNR; w < usual[0] || w > usual[1] {
					t.Errorf("worst SQNR %v dB, want %v", w, usual)
				}
				for _, r := range rep.Tensors {
					if r.MaxAbsError > r.Bound || r.Action == convert.Dropped || len(r.Outputs) == 0 || r.Reason == "" {
						t.Errorf("%+v", r)
					}
				}
				config := readJSON(t, filepath.Join(dst, "config.json"))
				if config["dtype"] != "bfloat16" || config["torch_dtype"] != nil {
					t.Errorf("dtype %v, torch_dtype %v", config["dtype"], config["torch_dtype"])
				}
			})
		}
	}
}

func TestRouterBiasStaysFloat32(t *testing.T) {
	const bias = "model.layers.1.mlp.gate.e_score_correction_bias"
	src, err := tensor.OpenDir(deepseek)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	want, err := src.Bytes(bias)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range ofFloat() {
		dst, _ := mustConvert(t, deepseek, format, convert.Options{})
		d, err := tensor.OpenDir(dst)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.Bytes(bias)
		d.Close()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", format, err)
		}
	}
}

// TestOutputDependsOnNothingElse: any number of workers gives the same files; any
// shard size the same tensors; a second run the same bytes.
func TestOutputDependsOnNothingElse(t *testing.T) {
	a, _ := mustConvert(t, deepseek, convert.W8A8Ascend, convert.Options{Workers: 1})
	b, _ := mustConvert(t, deepseek, convert.W8A8Ascend, convert.Options{Workers: 7})
	if diff := cmp.Diff(listing(t, a), listing(t, b)); diff != "" {
		t.Error("workers change the files")
	}
	c, rep := mustConvert(t, deepseek, convert.W8A8Ascend, convert.Options{ShardSize: 50_000})
	compareDirs(t, a, c)
	files := map[string]bool{}
	for _, r := range rep.Tensors {
		files[r.File] = true
	}
	if len(files) < 4 || !files[fmt.Sprintf("model-00001-of-%05d.safetensors", len(files))] {
		t.Errorf("files %v", files)
	}
	if check, err := convert.Check(context.Background(), deepseek, c); err != nil || !check.Passed() {
		t.Errorf("%v, %v", check, err)
	}
	if bf16, _ := mustConvert(t, deepseek, convert.BF16, convert.Options{ShardSize: 50_000}); !slices.Contains(slices.Collect(maps.Keys(listing(t, bf16))), tensor.IndexName) {
		t.Error("bfloat16 shards without an index")
	}
}

func TestKeepLeavesModulesFloat(t *testing.T) {
	dst, rep := mustConvert(t, deepseek, convert.W8A8Ascend, convert.Options{Keep: []string{"*.o_proj", "*.experts.*"}})
	for _, r := range rep.Tensors {
		kept := strings.HasSuffix(r.Name, ".o_proj.weight") || strings.Contains(r.Name, ".experts.")
		if kept && (r.Action != convert.Cast || r.Reason != "--keep") {
			t.Errorf("%+v", r)
		}
	}
	if check, err := convert.Check(context.Background(), deepseek, dst); err != nil || !check.Passed() {
		t.Errorf("%v, %v", check, err)
	}
}

func TestFloat16SourceGoesThroughBFloat16(t *testing.T) {
	src := clone(t, source)
	reweigh(t, src, "model.safetensors", func(all map[string]tensor.Tensor) {
		for name, x := range all {
			f := make([]float32, len(x.Data)/2)
			if err := tensor.Widen(f, x.Data, x.DType); err != nil {
				t.Fatal(err)
			}
			all[name] = tensor.FromFloat32(name, x.Shape, f, tensor.F16)
		}
	})
	dst, _ := mustConvert(t, src, convert.W8A8Ascend, convert.Options{})
	if check, err := convert.Check(context.Background(), src, dst); err != nil || !check.Passed() {
		t.Errorf("%v, %v", check, err)
	}
}

func TestConvertRefuses(t *testing.T) {
	const q = "model.layers.1.self_attn.q_proj.weight"
	weights := func(change func(all map[string]tensor.Tensor)) func(*testing.T, string) {
		return func(t *testing.T, dir string) { reweigh(t, dir, "model.safetensors", change) }
	}
	config := func(old, new string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			text := string(read(t, filepath.Join(dir, "config.json")))
			if !strings.Contains(text, old) {
				t.Fatalf("config.json has no %s", old)
			}
			put(t, filepath.Join(dir, "config.json"), strings.Replace(text, old, new, 1))
		}
	}
	tests := map[string]struct {
		damage func(t *testing.T, dir string)
		rule   string // empty: an error that is no violation
		want   string
	}{
		"a NaN":              {weights(func(all map[string]tensor.Tensor) { setFloat(all[q], 5, float32(math.NaN())) }), "finite", q},
		"an infinite norm":   {weights(func(all map[string]tensor.Tensor) { setFloat(all["model.norm.weight"], 3, float32(math.Inf(1))) }), "finite", "element 3"},
		"past bfloat16":      {weights(func(all map[string]tensor.Tensor) { setFloat(all["model.norm.weight"], 3, math.MaxFloat32) }), "bound", "element 3"},
		"past it, quantised": {weights(func(all map[string]tensor.Tensor) { setFloat(all[q], 65, math.MaxFloat32) }), "bound", "row 1, column 1"},
		"an unknown tensor": {weights(func(all map[string]tensor.Tensor) {
			all["model.layers.0.odd.weight"] = tensor.FromFloat32("model.layers.0.odd.weight", []int64{1}, []float32{1}, tensor.F32)
		}), "complete", "model.layers.0.odd.weight"},
		"an integer tensor": {weights(func(all map[string]tensor.Tensor) {
			all[q] = tensor.Tensor{Name: q, DType: tensor.U8, Shape: []int64{1}, Data: []byte{1}}
		}), "dtype", q},
		"no tensors":            {weights(func(all map[string]tensor.Tensor) { clear(all) }), "complete", "no tensors"},
		"a quantised source":    {config(`"model_type"`, `"quantization_config": {"quant_method": "fp8"}, "model_type"`), "source", "quantization_config"},
		"a described source":    {func(t *testing.T, dir string) { put(t, filepath.Join(dir, "quant_model_description.json"), "{}") }, "source", "quant_model_description.json"},
		"another model type":    {config(`"deepseek_v3"`, `"llama"`), "architecture", `model_type "llama"`},
		"a head that is untied": {config(`"tie_word_embeddings": false`, `"tie_word_embeddings": true`), "tied", "lm_head.weight"},
		"no configuration":      {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "config.json")) }, "", "config.json"},
		"no weights":            {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "model.safetensors")) }, "", "no weights"},
		"truncated weights":     {func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, "model.safetensors"), 500_000) }, "", "truncated"},
		"a broken link":         {func(t *testing.T, dir string) { os.Symlink("nowhere", filepath.Join(dir, "tokenizer.json")) }, "", "tokenizer.json"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			src := clone(t, deepseek)
			tt.damage(t, src)
			parent := t.TempDir()
			_, err := convert.Convert(context.Background(), src, filepath.Join(parent, "out"), convert.W8A8Ascend, convert.Options{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v does not say %q", err, tt.want)
			}
			v, ok := errors.AsType[*convert.Violation](err)
			if ok != (tt.rule != "") || ok && v.Rule != tt.rule {
				t.Errorf("error %v: want rule %q", err, tt.rule)
			}
			if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
				t.Errorf("left behind: %v %v", entries, err)
			}
		})
	}
}

func TestTiedHeadThatIsTheEmbedding(t *testing.T) {
	src := clone(t, deepseek)
	put(t, filepath.Join(src, "config.json"), strings.Replace(string(read(t, filepath.Join(src, "config.json"))), `"tie_word_embeddings": false`, `"tie_word_embeddings": true`, 1))
	reweigh(t, src, "model.safetensors", func(all map[string]tensor.Tensor) {
		head := all["lm_head.weight"]
		head.Data = all["model.embed_tokens.weight"].Data
		all["lm_head.weight"] = head
	})
	mustConvert(t, src, convert.BF16, convert.Options{})
}

func TestDropsOldBuffers(t *testing.T) {
	const name = "model.layers.0.self_attn.rotary_emb.inv_freq"
	src := clone(t, deepseek)
	reweigh(t, src, "model.safetensors", func(all map[string]tensor.Tensor) {
		all[name] = tensor.FromFloat32(name, []int64{2}, []float32{1, 0.1}, tensor.F32)
	})
	dst, rep := mustConvert(t, src, convert.BF16, convert.Options{})
	if rep.Totals.Dropped != 1 {
		t.Errorf("totals %+v", rep.Totals)
	}
	i := slices.IndexFunc(rep.Tensors, func(r convert.TensorReport) bool { return r.Name == name })
	if i < 0 || rep.Tensors[i].Action != convert.Dropped || rep.Tensors[i].Reason == "" {
		t.Errorf("%+v", rep.Tensors)
	}
	if check, err := convert.Check(context.Background(), src, dst); err != nil || !check.Passed() {
		t.Errorf("%v, %v", check, err)
	}
}

func TestDestination(t *testing.T) {
	ctx := context.Background()
	dst, first := mustConvert(t, deepseek, convert.BF16, convert.Options{})
	before := listing(t, dst)
	again, err := convert.Convert(ctx, deepseek, dst, convert.BF16, convert.Options{})
	if err != nil || cmp.Diff(first, again) != "" {
		t.Errorf("a complete conversion of ours was not taken: %v", err)
	}
	for name, refuse := range map[string]func() error{
		"another format": func() error {
			_, err := convert.Convert(ctx, deepseek, dst, convert.W8A8Ascend, convert.Options{})
			return err
		},
		"another source": func() error {
			_, err := convert.Convert(ctx, qwenMoE, dst, convert.BF16, convert.Options{})
			return err
		},
		"a foreign folder": func() error {
			_, err := convert.Convert(ctx, deepseek, slim, convert.W8A8Ascend, convert.Options{})
			return err
		},
		"no such format": func() error { _, err := convert.Convert(ctx, deepseek, dst+"x", "int3", convert.Options{}); return err },
		"no such rounding": func() error {
			_, err := convert.Convert(ctx, deepseek, dst+"x", convert.BF16, convert.Options{Rounding: "up"})
			return err
		},
		"names of another": func() error {
			_, err := convert.Convert(ctx, deepseek, dst+"x", convert.BF16, convert.Options{Naming: convert.MSModelSlim})
			return err
		},
		"negative size": func() error {
			_, err := convert.Convert(ctx, deepseek, dst+"x", convert.BF16, convert.Options{ShardSize: -1})
			return err
		},
	} {
		if err := refuse(); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if diff := cmp.Diff(before, listing(t, dst)); diff != "" {
		t.Error("a refusal changed the destination")
	}
	put(t, filepath.Join(dst, "more.txt"), "x")
	if _, err := convert.Convert(ctx, deepseek, dst, convert.BF16, convert.Options{}); err == nil || !strings.Contains(err.Error(), "more.txt") {
		t.Errorf("a conversion with a file too many was taken: %v", err)
	}
	empty := t.TempDir()
	if _, err := convert.Convert(ctx, deepseek, empty, convert.BF16, convert.Options{}); err != nil {
		t.Errorf("an empty directory was refused: %v", err)
	}
}

// TestCancelledConversionIsTakenUp: what was done is kept beside the destination,
// and the next call ends with the files of an undisturbed one, and nothing else.
func TestCancelledConversionIsTakenUp(t *testing.T) {
	for _, format := range ofFloat() {
		want, _ := mustConvert(t, deepseek, format, convert.Options{})
		parent := t.TempDir()
		dst := filepath.Join(parent, "out")
		ctx, cancel := context.WithCancel(context.Background())
		n := 0
		o := convert.Options{Workers: 1, Progress: func(progress.Update) {
			if n++; n == 30 {
				cancel()
			}
		}}
		_, err := convert.Convert(ctx, deepseek, dst, format, o)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", format, err)
		}
		if _, err := os.Stat(dst); err == nil {
			t.Errorf("%s: the destination is there", format)
		}
		rep, err := convert.Convert(context.Background(), deepseek, dst, format, convert.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if rep.Resumed == 0 {
			t.Errorf("%s: nothing was taken over", format)
		}
		if diff := cmp.Diff(listing(t, want), listing(t, dst)); diff != "" {
			t.Errorf("%s differs from an undisturbed run's", format)
		}
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
			t.Errorf("%s: left behind %v, %v", format, entries, err)
		}
	}
}

func TestSourceThatChangesIsNoticed(t *testing.T) {
	src := clone(t, deepseek)
	var once sync.Once
	o := convert.Options{Workers: 1, Progress: func(progress.Update) {
		once.Do(func() {
			put(t, filepath.Join(src, "config.json"), string(read(t, filepath.Join(src, "config.json")))+"\n")
		})
	}}
	parent := t.TempDir()
	_, err := convert.Convert(context.Background(), src, filepath.Join(parent, "out"), convert.BF16, o)
	if err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Errorf("error %v", err)
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
		t.Errorf("left behind %v, %v", entries, err)
	}
}

func TestFilesOfTheSourceAreAllAccountedFor(t *testing.T) {
	src := clone(t, source)
	want := map[string]string{
		"optimizer.safetensors": "left", "state.json": "left", "manifest.json": "left", "pytorch_model.bin": "left",
		".hidden": "left", "merges.txt": "copied", "LICENSE": "copied", "sub": "left",
	}
	for name := range want {
		if name != "sub" {
			put(t, filepath.Join(src, name), name)
		} else if err := os.Mkdir(filepath.Join(src, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	want["config.json"], want["model.safetensors"] = "copied", "converted"
	dst, rep := mustConvert(t, src, convert.W8A8Ascend, convert.Options{})
	for name, action := range want {
		i := slices.IndexFunc(rep.Files, func(f convert.FileReport) bool { return f.Name == name })
		if i < 0 || rep.Files[i].Action != action || action == "left" && rep.Files[i].Reason == "" {
			t.Errorf("%s: %+v, want %s", name, rep.Files, action)
		}
		if _, err := os.Stat(filepath.Join(dst, name)); (err == nil) != (action == "copied") {
			t.Errorf("%s in the destination: %v", name, err)
		}
	}
}

func TestReportPrints(t *testing.T) {
	_, rep := mustConvert(t, deepseek, convert.W8A8Ascend, convert.Options{})
	var b bytes.Buffer
	if err := rep.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"stays float: *.self_attn.kv_b_proj (", "quantised   model.layers.0.mlp.down_proj.weight [64 112] F32>I8", "int8 with compatible rounding; compatible rounding gives 4", " dB: ", rep.SourceDigest, rep.Digest} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report does not say %q:\n%.600s", want, b.String())
		}
	}
}
