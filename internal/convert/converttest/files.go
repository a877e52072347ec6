package converttest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tarbert/internal/convert"
	"tarbert/internal/tensor"
)

// Faults of a directory's files, of a source or of a conversion: what copies,
// repackaging and old tools really do to them.
const (
	MissingScale    = "missing-scale"     // one weight's scale is gone
	StaleIndex      = "stale-index"       // the index sends one tensor to another shard, or forgets it
	SwappedGrid     = "swapped-grid"      // one grid of scales is transposed
	ExponentAsFloat = "exponent-as-float" // an E8M0 byte was stored as a number
	TruncatedShard  = "truncated-shard"   // the last shard lost its last thousand bytes
	DuplicateName   = "duplicate-name"    // two tensors of a shard have one name
)

// FileKinds lists the faults of files.
func FileKinds() []string {
	return []string{MissingScale, StaleIndex, SwappedGrid, ExponentAsFloat, TruncatedShard, DuplicateName}
}

// errNothing says that a directory has nothing that the fault could befall.
var errNothing = errors.New("it has no such tensor")

// DamageFiles plants a fault of files in a model directory, in place. A record of
// ours in it is made to agree, so that no digest gives the fault away.
func DamageFiles(dir, kind string) error {
	faults := map[string]func(string) error{MissingScale: dropScale, StaleIndex: staleIndex, SwappedGrid: swapGrid,
		ExponentAsFloat: exponentAsFloat, TruncatedShard: truncate, DuplicateName: duplicate}
	plant, ok := faults[kind]
	if !ok {
		return fmt.Errorf("no such fault: there are %v", FileKinds())
	}
	err := plant(dir)
	if err == nil {
		if _, foreign := convert.ReadRecord(dir); foreign == nil {
			err = refreshRecord(dir)
		}
	}
	if err != nil {
		return fmt.Errorf("plant %q in %s: %w", kind, dir, err)
	}
	return nil
}

// isScale reports whether a tensor is the scale of a weight that is there.
func isScale(all map[string]*tensor.Tensor, name string) bool {
	for _, suffix := range []string{"_scale_inv", "_scale"} {
		if w, ok := strings.CutSuffix(name, suffix); ok && all[w] != nil {
			return true
		}
	}
	module, ok := strings.CutSuffix(name, ".scale")
	return ok && all[module+".weight"] != nil
}

// scaleOf finds the first scale, by name, that suits.
func scaleOf(all map[string]*tensor.Tensor, suits func(t *tensor.Tensor) bool) (*tensor.Tensor, error) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if isScale(all, name) && suits(all[name]) {
			return all[name], nil
		}
	}
	return nil, errNothing
}

func dropScale(dir string) error {
	gone := ""
	err := rewrite(dir, func(all map[string]*tensor.Tensor) error {
		t, err := scaleOf(all, func(*tensor.Tensor) bool { return true })
		if err != nil {
			return err
		}
		gone = t.Name
		delete(all, gone)
		return nil
	})
	if err != nil {
		return err
	}
	return editIndex(dir, func(files map[string]string) { delete(files, gone) })
}

func swapGrid(dir string) error {
	return rewrite(dir, func(all map[string]*tensor.Tensor) error {
		t, err := scaleOf(all, func(t *tensor.Tensor) bool { return len(t.Shape) == 2 && t.Shape[0] != t.Shape[1] })
		if err != nil {
			return err
		}
		rows, cols, width := int(t.Shape[0]), int(t.Shape[1]), t.DType.Bits()/8
		out := make([]byte, 0, len(t.Data))
		for c := range cols {
			for r := range rows {
				out = append(out, t.Data[(r*cols+c)*width:(r*cols+c+1)*width]...)
			}
		}
		t.Data, t.Shape = out, []int64{t.Shape[1], t.Shape[0]}
		return nil
	})
}

// exponentAsFloat copies the exponent byte of each scale as a number, as vLLM
// issue 43416 did: of E8M0 the byte itself, of others that of the power of two.
func exponentAsFloat(dir string) error {
	return rewrite(dir, func(all map[string]*tensor.Tensor) error {
		t, err := scaleOf(all, func(*tensor.Tensor) bool { return true })
		if err != nil {
			return err
		}
		if t.DType == tensor.F8_E8M0 {
			numbers := make([]byte, 0, 4*len(t.Data))
			for _, b := range t.Data {
				numbers = binary.LittleEndian.AppendUint32(numbers, math.Float32bits(float32(b)))
			}
			t.DType, t.Data = tensor.F32, numbers
			return nil
		}
		x := make([]float32, len(t.Data)*8/t.DType.Bits())
		if err := tensor.Widen(x, t.Data, t.DType); err != nil {
			return err
		}
		for i := range x {
			x[i] = float32(math.Float32bits(x[i]) >> 23 & 0xff)
		}
		return tensor.Narrow(t.Data, x, t.DType)
	})
}

// rewrite writes the files of dir anew with their tensors passed through change,
// which may drop some and change shapes and types.
func rewrite(dir string, change func(all map[string]*tensor.Tensor) error) error {
	var names map[string][]string
	var metadata map[string]string
	all := map[string]*tensor.Tensor{}
	err := func() error {
		d, err := tensor.OpenDir(dir)
		if err != nil {
			return err
		}
		defer d.Close()
		names, metadata = map[string][]string{}, d.Metadata()
		for _, info := range d.Infos() {
			b, err := d.Bytes(info.Name)
			if err != nil {
				return err
			}
			all[info.Name] = &tensor.Tensor{Name: info.Name, DType: info.DType, Shape: info.Shape, Data: b}
			names[info.File] = append(names[info.File], info.Name)
		}
		return nil
	}()
	if err == nil {
		err = change(all)
	}
	if err != nil {
		return err
	}
	for file, in := range names {
		var out []tensor.Tensor
		for _, n := range in {
			if all[n] != nil {
				out = append(out, *all[n])
			}
		}
		if err := tensor.WriteFile(filepath.Join(dir, file), out, metadata); err != nil {
			return err
		}
	}
	return nil
}

// shards lists the weights' files.
func shards(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err == nil && len(files) == 0 {
		err = errNothing
	}
	return files, err
}

// indexPath is the directory's index; empty without one.
func indexPath(dir string) string {
	found, err := filepath.Glob(filepath.Join(dir, "*.safetensors.index.json"))
	if err != nil || len(found) == 0 {
		return ""
	}
	return found[0]
}

// editIndex changes which file the index gives for each tensor, if there is one.
func editIndex(dir string, change func(files map[string]string)) error {
	path := indexPath(dir)
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var index struct {
		Metadata map[string]any    `json:"metadata"`
		Files    map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		return err
	}
	change(index.Files)
	if b, err = json.MarshalIndent(index, "", "  "); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// staleIndex leaves the index of an older upload: its first tensor is said to lie
// in the last shard. With one shard, the index lacks it; without an index, there is one.
func staleIndex(dir string) error {
	d, err := tensor.OpenDir(dir)
	if err != nil {
		return err
	}
	infos, files := d.Infos(), d.Files()
	if err := d.Close(); err != nil {
		return err
	}
	if indexPath(dir) == "" {
		b, err := tensor.EncodeIndex(infos)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, tensor.IndexName), b, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return editIndex(dir, func(in map[string]string) {
		first := slices.Min(slices.Collect(maps.Keys(in)))
		last := files[len(files)-1]
		if in[first] != last {
			in[first] = last
			return
		}
		delete(in, first)
	})
}

func truncate(dir string) error {
	files, err := shards(dir)
	if err != nil {
		return err
	}
	last := files[len(files)-1]
	st, err := os.Stat(last)
	if err != nil {
		return err
	}
	return os.Truncate(last, st.Size()-1000)
}

// duplicate gives the second tensor of the first file the name of the first. The
// header is JSON, in which most parsers let the last of two win.
func duplicate(dir string) error {
	files, err := shards(dir)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	f, err := tensor.Open(files[0])
	if err != nil {
		return err
	}
	infos := f.Infos()
	if err := f.Close(); err != nil {
		return err
	}
	if len(infos) < 2 {
		return errNothing
	}
	n := binary.LittleEndian.Uint64(b)
	quoted := func(name string) []byte { return []byte(`"` + name + `":`) }
	header := bytes.TrimRight(bytes.Replace(b[8:8+n], quoted(infos[1].Name), quoted(infos[0].Name), 1), " ")
	for len(header)%8 != 0 {
		header = append(header, ' ')
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return os.WriteFile(files[0], append(append(out, header...), b[8+n:]...), 0o644)
}
