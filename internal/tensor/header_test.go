package tensor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// file puts a header's text and some data together.
func file(text string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	return append(append(b, text...), make([]byte, data)...)
}

func entryText(name, dtype, shape string, begin, end int) string {
	return fmt.Sprintf(`%q:{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, name, dtype, shape, begin, end)
}

func TestOpenRefuses(t *testing.T) {
	a := entryText("a", "F32", "[2]", 0, 8)
	tests := map[string]struct {
		bytes  []byte
		tensor string
		want   string
	}{
		"empty file":           {nil, "", "too few"},
		"short length":         {[]byte{1, 2, 3}, "", "too few"},
		"length past the end":  {file("{"+a+"}", 8)[:30], "", "truncated"},
		"length past the cap":  {binary.LittleEndian.AppendUint64(nil, MaxHeader+1), "", "more than 100000000"},
		"length of 2^63":       {append(binary.LittleEndian.AppendUint64(nil, 1<<63), 'x'), "", "more than 100000000"},
		"not an object":        {file(`[]`, 0), "", "does not begin with '{'"},
		"space first":          {file(` {}`, 0), "", "does not begin with '{'"},
		"no header":            {file(``, 0), "", "does not begin with '{'"},
		"not UTF-8":            {file("{\"\xff\":1}", 0), "", "not UTF-8"},
		"duplicate name":       {file("{"+a+","+a+"}", 8), "a", "occurs twice"},
		"duplicate escaped":    {file("{"+a+`,"\u0061":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8), "a", "occurs twice"},
		"duplicate metadata":   {file(`{"__metadata__":{},"__metadata__":{}}`, 0), "__metadata__", "occurs twice"},
		"duplicate key inside": {file(`{"__metadata__":{"a":"b","a":"c"}}`, 0), "__metadata__", "occurs twice"},
		"metadata of numbers":  {file(`{"__metadata__":{"a":1}}`, 0), "__metadata__", `'"' should be`},
		"hole at the start":    {file("{"+entryText("a", "F32", "[2]", 4, 12)+"}", 12), "a", "hole after 0"},
		"hole":                 {file("{"+a+","+entryText("b", "U8", "[1]", 9, 10)+"}", 10), "b", "hole after 8"},
		"overlap":              {file("{"+a+","+entryText("b", "U8", "[4]", 7, 11)+"}", 11), "b", "overlap"},
		"same bytes twice":     {file("{"+a+","+entryText("b", "F32", "[2]", 0, 8)+"}", 8), "b", "overlap"},
		"backwards":            {file("{"+a+","+entryText("b", "U8", "[4]", 8, 4)+"}", 8), "b", "before they begin"},
		"shape too large":      {file("{"+entryText("a", "F32", "[3]", 0, 8)+"}", 8), "a", "takes 12 bytes"},
		"shape too small":      {file("{"+entryText("a", "F32", "[1]", 0, 8)+"}", 8), "a", "takes 4 bytes"},
		"shape overflows":      {file("{"+entryText("a", "F32", "[4611686018427387904,4]", 0, 0)+"}", 0), "a", "overflows"},
		"product wraps to fit": {file("{"+entryText("a", "U8", "[4294967296,4294967296,0]", 0, 0)+"}", 0), "a", "overflows"},
		"half a byte":          {file("{"+entryText("a", "F4", "[3]", 0, 1)+"}", 1), "a", "whole bytes"},
		"unknown dtype":        {file("{"+entryText("a", "bf16", "[2]", 0, 4)+"}", 4), "a", `unknown dtype "bf16"`},
		"negative dimension":   {file("{"+entryText("a", "F32", "[-2]", 0, 8)+"}", 8), "a", "not negative"},
		"fraction":             {file("{"+entryText("a", "F32", "[2.0]", 0, 8)+"}", 8), "a", "whole one"},
		"exponent":             {file("{"+entryText("a", "F32", "[2e0]", 0, 8)+"}", 8), "a", "whole one"},
		"leading zero":         {file("{"+entryText("a", "F32", "[02]", 0, 8)+"}", 8), "a", "leading zero"},
		"number too large":     {file("{"+entryText("a", "F32", "[9223372036854775808]", 0, 8)+"}", 8), "a", "63 bits"},
		"field missing":        {file(`{"a":{"dtype":"F32","shape":[2]}}`, 8), "a", "missing"},
		"field twice":          {file(`{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8), "a", `"dtype" occurs twice`},
		"field unknown":        {file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"strides":[1]}}`, 8), "a", `unknown field "strides"`},
		"three offsets":        {file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4,8]}}`, 8), "a", "more than two"},
		"one offset":           {file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[8]}}`, 8), "a", "1 numbers"},
		"data truncated":       {file("{"+a+"}", 7), "a", "truncated"},
		"data left over":       {file("{"+a+"}", 9), "", "1 bytes belong to no tensor"},
		"text after the end":   {file("{"+a+"}x", 8), "", "more after the end"},
		"object does not end":  {file("{"+a, 8), "a", "ends where"},
		"string does not end":  {file(`{"a`, 0), "", "does not end"},
		"control character":    {file("{\"a\nb\":{}}", 0), "", "control character"},
		"bad escape":           {file(`{"\x61":{}}`, 0), "", "bad escape"},
		"lone surrogate":       {file(`{"\ud800x":{}}`, 0), "", "escape"},
		"surrogate unpaired":   {file(`{"\ud800\u0061":{}}`, 0), "", "without its pair"},
		"null byte padding":    {file("{"+a+"}\x00\x00", 8), "", "more after the end"},
		"comma at the end":     {file("{"+a+",}", 8), "a", `'"' should be`},
		"huge nothing in list": {file(`{"a":{"dtype":"F32","shape":[,],"data_offsets":[0,8]}}`, 8), "a", "whole number"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad.safetensors")
			if err := os.WriteFile(path, tt.bytes, 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := Open(path)
			fe, ok := errors.AsType[*FormatError](err)
			if !ok {
				t.Fatalf("error %v is no FormatError", err)
			}
			if !strings.Contains(fe.Reason, tt.want) || fe.Tensor != tt.tensor {
				t.Errorf("tensor %q: %q\nwant %q: …%q…", fe.Tensor, fe.Reason, tt.tensor, tt.want)
			}
			if !strings.Contains(err.Error(), path) || fe.Offset < 0 || fe.Offset > int64(len(tt.bytes)) {
				t.Errorf("%v does not name the file, or a place in it (byte %d of %d)", err, fe.Offset, len(tt.bytes))
			}
		})
	}
}

func TestOpenAcceptsWhatTheReferenceLibraryDoes(t *testing.T) {
	tests := map[string]struct {
		text  string
		data  int
		names []string
	}{
		"no tensors":     {`{}`, 0, nil},
		"padding":        {`{}      `, 0, nil},
		"white space":    {"{ \"a\" :\t{ \"shape\" : [ ] , \"dtype\" : \"U8\",\n\"data_offsets\":[0, 1] } }\r\n", 1, []string{"a"}},
		"empty tensors":  {"{" + entryText("b", "F32", "[0,7]", 0, 0) + "," + entryText("a", "F32", "[0]", 0, 0) + "," + entryText("c", "U8", "[1]", 0, 1) + "}", 1, []string{"b", "a", "c"}},
		"scalar":         {"{" + entryText("a", "F64", "[]", 0, 8) + "}", 8, []string{"a"}},
		"out of order":   {"{" + entryText("b", "U8", "[1]", 4, 5) + "," + entryText("a", "F32", "[1]", 0, 4) + "}", 5, []string{"a", "b"}},
		"not aligned":    {"{" + entryText("b", "U8", "[1]", 0, 1) + "," + entryText("a", "F32", "[1]", 1, 5) + "}", 5, []string{"b", "a"}},
		"escapes":        {`{"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1, []string{"\"\\/\b\f\n\r\té😀"}},
		"6-bit elements": {"{" + entryText("a", "F6_E2M3", "[4]", 0, 3) + "}", 3, []string{"a"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "good.safetensors")
			if err := os.WriteFile(path, file(tt.text, tt.data), 0o644); err != nil {
				t.Fatal(err)
			}
			f, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var names []string
			for _, i := range f.Infos() {
				names = append(names, i.Name)
			}
			if fmt.Sprint(names) != fmt.Sprint(tt.names) {
				t.Errorf("tensors %q, want %q", names, tt.names)
			}
		})
	}
}

func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir); err == nil {
		t.Error("a directory was opened")
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file gave %v", err)
	}
}

func TestShrunkFileIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := WriteFile(path, []Tensor{FromFloat32("w", []int64{4}, make([]float32, 4), F32)}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Truncate(path, 20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Bytes("w"); err == nil || !strings.Contains(err.Error(), `"w"`) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v does not name tensor and file", err)
	}
}

// FuzzHeader proves that what is accepted is consistent to the byte, and that
// the same tensors laid out again are accepted again.
func FuzzHeader(f *testing.F) {
	f.Add(file(`{}`, 0))
	f.Add(file("{"+entryText("a", "F32", "[2]", 0, 8)+"}", 8))
	f.Add(file(`{"__metadata__":{"format":"pt"},"a\u00e9":{"dtype":"F4","shape":[2,1],"data_offsets":[0,1]},"b":{"dtype":"I8","shape":[],"data_offsets":[1,2]}}  `, 2))
	f.Add(file("{"+entryText("a", "F32", "[4611686018427387904,4]", 0, 0)+"}", 0))
	f.Add(binary.LittleEndian.AppendUint64(nil, 1<<62))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHeader("f", bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if fe, ok := errors.AsType[*FormatError](err); !ok || fe.Offset < 0 || fe.Offset > int64(len(b)) {
				t.Fatalf("error without a place in the file: %v", err)
			}
			return
		}
		end := int64(8 + binary.LittleEndian.Uint64(b))
		for _, info := range h.infos {
			if info.Offset != end || info.Size*8 != info.Elements()*int64(info.DType.Bits()) {
				t.Fatalf("%+v does not follow byte %d or is not its shape", info, end)
			}
			end += info.Size
		}
		if end != int64(len(b)) {
			t.Fatalf("tensors end at %d of %d", end, len(b))
		}
		l, err := Plan(h.infos, h.metadata)
		if err != nil {
			t.Fatal(err)
		}
		again, err := readHeader("f", bytes.NewReader(append(l.header, make([]byte, l.Size-int64(len(l.header)))...)), l.Size)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(l.Infos, again.infos); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(h.metadata, again.metadata); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestRealHeadersPlanTheSame(t *testing.T) {
	for _, path := range realFiles(t) {
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := Plan(f.Infos(), f.Metadata())
		if err != nil {
			t.Fatal(err)
		}
		for i, info := range f.Infos() {
			info.File = filepath.Base(path)
			want := l.Infos[i]
			want.File = info.File
			if diff := cmp.Diff(want, info); diff != "" {
				t.Errorf("%s: %s", path, diff)
			}
		}
		f.Close()
	}
}

// BenchmarkHeader reads the header of a model with 100,000 tensors.
func BenchmarkHeader(b *testing.B) {
	infos := make([]Info, 100_000)
	for i := range infos {
		infos[i] = Info{Name: fmt.Sprintf("model.layers.%d.mlp.experts.%d.gate_proj.weight_scale_inv", i/400, i%400), DType: U8, Shape: []int64{1, 1}}
	}
	l, err := Plan(infos, nil)
	if err != nil {
		b.Fatal(err)
	}
	all := append(l.header, make([]byte, l.Size-int64(len(l.header)))...)
	b.SetBytes(int64(len(l.header)))
	for b.Loop() {
		if h, err := readHeader("f", bytes.NewReader(all), l.Size); err != nil || len(h.infos) != len(infos) {
			b.Fatal(err)
		}
	}
}
