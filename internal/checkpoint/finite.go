package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tarbert/internal/tensor"
)

// band is how much of a tensor is in memory at a time: it stays in a core's cache,
// beside what trains.
const band = 64 << 10

// Finite proves that no weight and no optimizer moment of a checkpoint is NaN or
// infinite. The error names file, tensor and element.
func Finite(dir string) error {
	weights, err := tensor.OpenDir(dir)
	if err != nil {
		return err
	}
	err = finite(weights, weights.Infos())
	if err := errors.Join(err, weights.Close()); err != nil {
		return err
	}
	moments, err := openMoments(dir)
	if moments == nil || err != nil {
		return err
	}
	return errors.Join(finite(moments, moments.Infos()), moments.Close())
}

// openMoments opens a checkpoint's optimizer state; nil for a model without the means to resume.
func openMoments(dir string) (*tensor.File, error) {
	moments, err := tensor.Open(filepath.Join(dir, "optimizer.safetensors"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return moments, err
}

type reader interface {
	Path() string
	ReadAt(name string, p []byte, off int64) error
}

func finite(r reader, infos []tensor.Info) error {
	buf := make([]byte, band)
	for _, info := range infos {
		for off := int64(0); off < info.Size; off += band {
			b := buf[:min(band, info.Size-off)]
			if err := r.ReadAt(info.Name, b, off); err != nil {
				return err
			}
			if i := firstNonFinite(b, info.DType); i >= 0 {
				return fmt.Errorf("%s: tensor %q: element %d (byte %d) is not finite",
					r.Path(), info.Name, off*8/int64(info.DType.Bits())+int64(i), info.Offset+off+int64(i*info.DType.Bits()/8))
			}
		}
	}
	return nil
}

// firstNonFinite is the first element whose exponent is all ones, or -1. Types
// without infinities and NaN have none.
func firstNonFinite(b []byte, d tensor.DType) int {
	switch d {
	case tensor.F32:
		for i := 0; i+4 <= len(b); i += 4 {
			if binary.LittleEndian.Uint32(b[i:])&0x7f800000 == 0x7f800000 {
				return i / 4
			}
		}
	case tensor.BF16, tensor.F16:
		mask := uint16(0x7f80)
		if d == tensor.F16 {
			mask = 0x7c00
		}
		for i := 0; i+2 <= len(b); i += 2 {
			if binary.LittleEndian.Uint16(b[i:])&mask == mask {
				return i / 2
			}
		}
	case tensor.F64:
		for i := 0; i+8 <= len(b); i += 8 {
			if binary.LittleEndian.Uint64(b[i:])>>52&0x7ff == 0x7ff {
				return i / 8
			}
		}
	}
	return -1
}

// Loadable proves that a trainer can load a checkpoint: config.json is one JSON
// object, every moment of the optimizer belongs to a weight and has its shape,
// and a weight with one moment has both.
func Loadable(dir string) error {
	b, err := readCapped(filepath.Join(dir, "config.json"))
	if err == nil {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(b, &object); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(dir, "config.json"), err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	weights, err := tensor.OpenDir(dir)
	if err != nil {
		return err
	}
	shapes := map[string][]int64{}
	for _, info := range weights.Infos() {
		shapes[info.Name] = info.Shape
	}
	if err := weights.Close(); err != nil {
		return err
	}
	moments, err := openMoments(dir)
	if moments == nil || err != nil {
		return err
	}
	return errors.Join(pairs(moments, shapes), moments.Close())
}

func pairs(moments *tensor.File, shapes map[string][]int64) error {
	found := map[string]int{}
	for _, info := range moments.Infos() {
		name, first := strings.CutPrefix(info.Name, "exp_avg.")
		if !first {
			var second bool
			if name, second = strings.CutPrefix(info.Name, "exp_avg_sq."); !second {
				continue // another optimizer's own
			}
		}
		shape, known := shapes[name]
		if !known {
			return fmt.Errorf("%s: tensor %q: there is no weight %q", moments.Path(), info.Name, name)
		}
		if !slices.Equal(shape, info.Shape) {
			return fmt.Errorf("%s: tensor %q has shape %v, its weight %v", moments.Path(), info.Name, info.Shape, shape)
		}
		found[name]++
	}
	for name, n := range found {
		if n != 2 {
			return fmt.Errorf("%s: weight %q has one moment of two", moments.Path(), name)
		}
	}
	return nil
}
