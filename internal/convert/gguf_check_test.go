package convert_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarbert/internal/convert"
	"tarbert/internal/tensor/gguf"
)

// ggufRewrite writes a GGUF file again with its metadata and tensors changed.
func ggufRewrite(t *testing.T, path string, change func(m *gguf.Metadata, data map[string][]byte)) {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	data := map[string][]byte{}
	for _, i := range f.Infos() {
		if data[i.Name], err = f.Bytes(i.Name); err != nil {
			t.Fatal(err)
		}
	}
	m := f.Metadata()
	change(&m, data)
	infos := slices.DeleteFunc(f.Infos(), func(i gguf.Info) bool { return data[i.Name] == nil })
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		if !slices.ContainsFunc(infos, func(i gguf.Info) bool { return i.Name == name }) {
			infos = append(infos, gguf.Info{Name: name, Type: gguf.F32, Shape: []int64{int64(len(data[name]) / 4)}})
		}
	}
	l, err := gguf.Plan(m, infos)
	if err != nil {
		t.Fatal(err)
	}
	w, err := gguf.Create(path, l)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range l.Infos {
		if err := w.WriteAt(i.Name, data[i.Name], 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
}

// TestGGUFCheckFindsDamage: each fault breaks the rule that is about it.
func TestGGUFCheckFindsDamage(t *testing.T) {
	t.Parallel()
	src := ggufModel(t, "deepseek-v3", nil)
	made, _ := mustConvert(t, src, convert.GGUFQ8, convert.Options{})
	const blocks = "blk.0.attn_kv_a_mqa.weight" // Q8_0
	swap := func(b []byte, parts int) []byte {
		n := len(b) / parts
		return slices.Concat(b[n:2*n], b[:n], b[2*n:])
	}
	type data = map[string][]byte
	for _, c := range []struct {
		name   string
		change func(m *gguf.Metadata, data data)
		rule   string
		says   string
	}{
		{"nothing", func(*gguf.Metadata, data) {}, "", ""},
		{"another name", func(m *gguf.Metadata, _ data) { m.Set("general.name", "X") }, "", ""},
		{"softmax", func(m *gguf.Metadata, _ data) { m.Set("deepseek2.expert_gating_func", uint32(1)) },
			"metadata", "deepseek2.expert_gating_func: it is 1; the source gives 2"},
		{"a key lost", func(m *gguf.Metadata, _ data) {
			*m = slices.DeleteFunc(*m, func(kv gguf.KV) bool { return kv.Key == "deepseek2.rope.freq_base" })
		}, "metadata", "missing"},
		{"a key of another kind", func(m *gguf.Metadata, _ data) { m.Set("deepseek2.block_count", uint64(3)) }, "metadata", "block_count"},
		{"a key too many", func(m *gguf.Metadata, _ data) { m.Set("deepseek2.attention.sliding_window", uint32(8)) }, "metadata", "says nothing of it"},
		{"a token changed", func(m *gguf.Metadata, _ data) {
			tokens, _ := m.Get("tokenizer.ggml.tokens")
			tokens.([]string)[7] = "x"
		}, "metadata", "tokenizer.ggml.tokens"},
		{"a tensor lost", func(_ *gguf.Metadata, d data) { delete(d, "output.weight") }, "complete", "output.weight: missing"},
		{"a tensor too many", func(_ *gguf.Metadata, d data) { d["rope_freqs.weight"] = make([]byte, 64) }, "complete", "comes from no tensor"},
		{"a scale of NaN", func(_ *gguf.Metadata, d data) { d[blocks][35] = 0x7e }, "scales", "block 1: scale NaN"},
		{"a scale below zero", func(_ *gguf.Metadata, d data) { d[blocks][1] |= 0x80 }, "scales", "block 0"},
		{"a scale doubled", func(_ *gguf.Metadata, d data) { d[blocks][34+1] += 4 }, "bound", "block 1: scale"},
		{"a code off by two", func(_ *gguf.Metadata, d data) { d[blocks][2] += 2 }, "bound", "element 0"},
		{"heads swapped", func(_ *gguf.Metadata, d data) { d["blk.1.attn_k_b.weight"] = swap(d["blk.1.attn_k_b.weight"], 4) }, "bound", "attn_k_b"},
		{"experts swapped", func(_ *gguf.Metadata, d data) { d["blk.2.ffn_up_exps.weight"] = swap(d["blk.2.ffn_up_exps.weight"], 8) }, "bound", "ffn_up_exps"},
		{"a norm zeroed", func(_ *gguf.Metadata, d data) { clear(d["output_norm.weight"]) }, "bound", "output_norm"},
	} {
		dir := filepath.Join(t.TempDir(), "gguf")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "anyone's.gguf") // and no record: somebody else's conversion
		ggufWrite(t, path, read(t, filepath.Join(made, "model.gguf")))
		ggufRewrite(t, path, c.change)
		rep, err := convert.Check(context.Background(), src, dir)
		switch {
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.rule == "" && !rep.Passed():
			t.Errorf("%s: %v", c.name, rep.Violation)
		case c.rule != "" && (rep.Passed() || rep.Violation.Rule != c.rule || !strings.Contains(rep.Violation.Error(), c.says)):
			t.Errorf("%s: %v; want rule %s and %q", c.name, rep.Violation, c.rule, c.says)
		}
	}
}

// TestGGUFCheckOfBrokenFiles: what cannot be read, and what is no longer as recorded.
func TestGGUFCheckOfBrokenFiles(t *testing.T) {
	t.Parallel()
	src := ggufModel(t, "qwen3", nil)
	made, _ := mustConvert(t, src, convert.GGUFF32, convert.Options{})
	path := filepath.Join(made, "model.gguf")
	whole := read(t, path)
	for _, c := range []struct {
		name       string
		bytes      []byte
		rule, says string
	}{
		{"cut short", whole[:len(whole)-300], "readable", "truncated"},
		{"empty", nil, "readable", "truncated"},
		{"no GGUF", []byte(strings.Repeat("x", 64)), "readable", "not a GGUF file"},
		{"as it was", whole, "", ""},
	} {
		ggufWrite(t, path, c.bytes)
		rep, err := convert.Check(context.Background(), src, made)
		switch {
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.rule == "" && !rep.Passed():
			t.Errorf("%s: %v", c.name, rep.Violation)
		case c.rule != "" && (rep.Passed() || rep.Violation.Rule != c.rule || !strings.Contains(rep.Violation.Error(), c.says)):
			t.Errorf("%s: %v; want rule %s and %q", c.name, rep.Violation, c.rule, c.says)
		}
	}
	ggufRewrite(t, path, func(m *gguf.Metadata, _ map[string][]byte) { m.Set("general.name", "another") })
	if rep, err := convert.Check(context.Background(), src, made); err != nil || rep.Passed() || rep.Violation.Rule != "record" {
		t.Errorf("written again: %v, %v", rep, err)
	}
	ggufWrite(t, filepath.Join(made, "second.gguf"), whole)
	if rep, err := convert.Check(context.Background(), src, made); err != nil || rep.Passed() || rep.Violation.Rule != "readable" {
		t.Errorf("two files: %v, %v", rep, err)
	}
}
