package converttest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"tarbert/internal/convert"
	"tarbert/internal/tensor"
)

// The faults.
const (
	ExpertScaleDoubled = "expert-scale-doubled" // one expert's down_proj is twice as large
	ExpertsSwapped     = "experts-swapped"      // two experts of a layer in each other's place
	NormZeroed         = "norm-zeroed"          // the norm before a layer's feed-forward block is zero
	RopeBase           = "rope-base"            // rope_theta is a hundred times as large
)

// Kinds lists the faults.
func Kinds() []string { return []string{ExpertScaleDoubled, ExpertsSwapped, NormZeroed, RopeBase} }

// Damage plants a fault in a converted directory, of either format, in place.
// The first layer that has what the fault needs is hit, and experts 0 and 1;
// kind may name others: "experts-swapped:2/0,5" is layer 2, experts 0 and 5;
// "expert-scale-doubled:2/*" every expert of layer 2; "norm-zeroed:2" layer 2.
func Damage(dir, kind string) error {
	fault, where, _ := strings.Cut(kind, ":")
	var err error
	switch fault {
	case ExpertScaleDoubled:
		err = doubleExperts(dir, where)
	case ExpertsSwapped:
		err = swapExperts(dir, where)
	case NormZeroed:
		err = zeroNorm(dir, where)
	case RopeBase:
		err = scaleRope(dir)
	default:
		err = fmt.Errorf("no such fault: there are %v", Kinds())
	}
	if err == nil {
		err = refreshRecord(dir)
	}
	if err != nil {
		return fmt.Errorf("plant %q in %s: %w", kind, dir, err)
	}
	return nil
}

// edit rewrites every weights file of dir with its tensors passed through change.
func edit(dir string, change func(all map[string]*tensor.Tensor) error) error {
	d, err := tensor.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	all := map[string]*tensor.Tensor{}
	files := map[string][]string{}
	for _, info := range d.Infos() {
		b, err := d.Bytes(info.Name)
		if err != nil {
			return err
		}
		all[info.Name] = &tensor.Tensor{Name: info.Name, DType: info.DType, Shape: info.Shape, Data: b}
		files[info.File] = append(files[info.File], info.Name)
	}
	if err := change(all); err != nil {
		return err
	}
	for file, names := range files {
		var out []tensor.Tensor
		for _, name := range names {
			out = append(out, *all[name])
		}
		if err := tensor.WriteFile(filepath.Join(dir, file), out, d.Metadata()); err != nil {
			return err
		}
	}
	return nil
}

// firstLayer is the lowest layer with a tensor whose name has the infix.
func firstLayer(all map[string]*tensor.Tensor, infix string) (string, error) {
	best, layer := -1, ""
	for name := range all {
		rest, ok := strings.CutPrefix(name, "model.layers.")
		if !ok || !strings.Contains(rest, infix) {
			continue
		}
		number, _, _ := strings.Cut(rest, ".")
		if n, err := strconv.Atoi(number); err == nil && (best < 0 || n < best) {
			best, layer = n, number
		}
	}
	if layer == "" {
		return "", fmt.Errorf("no layer has %q", infix)
	}
	return layer, nil
}

// place reads "LAYER/EXPERT,EXPERT", with what is given by default.
func place(all map[string]*tensor.Tensor, where, infix, experts string) (layer string, list []string, err error) {
	layer, given, _ := strings.Cut(where, "/")
	if layer == "" {
		if layer, err = firstLayer(all, infix); err != nil {
			return "", nil, err
		}
	}
	if given == "" {
		given = experts
	}
	return layer, strings.Split(given, ","), nil
}

func expert(layer, number, rest string) string {
	return "model.layers." + layer + ".mlp.experts." + number + "." + rest
}

func doubleExperts(dir, where string) error {
	return edit(dir, func(all map[string]*tensor.Tensor) error {
		layer, experts, err := place(all, where, ".experts.", "0")
		if err != nil {
			return err
		}
		if experts[0] == "*" {
			experts = nil
			for n := 0; all[expert(layer, strconv.Itoa(n), "down_proj.weight")] != nil; n++ {
				experts = append(experts, strconv.Itoa(n))
			}
		}
		for _, e := range experts {
			t := all[expert(layer, e, "down_proj.weight_scale")]
			if t == nil {
				t = all[expert(layer, e, "down_proj.weight")]
			}
			if t == nil {
				return fmt.Errorf("no expert %s in layer %s", e, layer)
			}
			if err := scale(t, 2); err != nil {
				return err
			}
		}
		return nil
	})
}

// scale multiplies a float tensor.
func scale(t *tensor.Tensor, by float32) error {
	x := make([]float32, len(t.Data)*8/t.DType.Bits())
	if err := tensor.Widen(x, t.Data, t.DType); err != nil {
		return err
	}
	for i := range x {
		x[i] *= by
	}
	return tensor.Narrow(t.Data, x, t.DType)
}

func swapExperts(dir, where string) error {
	return edit(dir, func(all map[string]*tensor.Tensor) error {
		layer, experts, err := place(all, where, ".experts.", "0,1")
		if err != nil {
			return err
		}
		if len(experts) != 2 {
			return fmt.Errorf("two experts are swapped, not %d", len(experts))
		}
		prefix := expert(layer, experts[0], "")
		swapped := 0
		for _, name := range slices.Sorted(maps.Keys(all)) {
			rest, ok := strings.CutPrefix(name, prefix)
			if !ok {
				continue
			}
			other := all[expert(layer, experts[1], rest)]
			if other == nil {
				return fmt.Errorf("no expert %s in layer %s", experts[1], layer)
			}
			all[name].Data, other.Data = other.Data, all[name].Data
			swapped++
		}
		if swapped == 0 {
			return fmt.Errorf("no expert %s in layer %s", experts[0], layer)
		}
		return nil
	})
}

func zeroNorm(dir, layer string) error {
	const suffix = ".post_attention_layernorm.weight"
	return edit(dir, func(all map[string]*tensor.Tensor) error {
		var err error
		if layer == "" {
			if layer, err = firstLayer(all, suffix); err != nil {
				return err
			}
		}
		t := all["model.layers."+layer+suffix]
		if t == nil {
			return fmt.Errorf("layer %s has no %s", layer, suffix)
		}
		clear(t.Data)
		return nil
	})
}

// scaleRope edits rope_theta in whichever spelling the configuration has.
func scaleRope(dir string) error {
	path := filepath.Join(dir, "config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&config); err != nil {
		return err
	}
	holder := config
	if inner, ok := config["rope_parameters"].(map[string]any); ok {
		holder = inner
	}
	theta, ok := holder["rope_theta"].(json.Number)
	if !ok {
		return errors.New("config.json has no rope_theta")
	}
	v, err := theta.Float64()
	if err != nil {
		return err
	}
	holder["rope_theta"] = v * 100
	if b, err = json.MarshalIndent(config, "", "  "); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// refreshRecord makes conversion.json agree with the files as they are now, so
// that no digest gives the fault away.
func refreshRecord(dir string) error {
	rec, err := convert.ReadRecord(dir)
	if err != nil {
		return err
	}
	for i, f := range rec.Files {
		if f.SHA256 == "" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, f.Name))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		rec.Files[i].Size, rec.Files[i].SHA256 = int64(len(b)), hex.EncodeToString(sum[:])
	}
	rec.Digest = convert.FilesDigest(rec.Files)
	b, err := json.MarshalIndent(rec, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "conversion.json"), append(b, '\n'), 0o644)
}
