package main

import (
	"bytes"
	"fmt"

	"tarbert/internal/tensor"
)

// sameTensors proves that both sides did the same work: every tensor of theirs is
// in ours, to the bit.
func sameTensors(theirs, ours, what string) error {
	a, err := tensor.OpenDir(theirs)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := tensor.OpenDir(ours)
	if err != nil {
		return err
	}
	defer b.Close()
	if x, y := len(a.Infos()), len(b.Infos()); x != y {
		return fmt.Errorf("%s: %d tensors, ours %d", what, x, y)
	}
	const piece = 1 << 22
	p, q := make([]byte, piece), make([]byte, piece)
	for _, info := range a.Infos() {
		other, ok := b.Info(info.Name)
		if !ok || other.DType != info.DType || other.Size != info.Size {
			return fmt.Errorf("%s: %s is %v of %v, ours %v of %v", what, info.Name, info.DType, info.Shape, other.DType, other.Shape)
		}
		for off := int64(0); off < info.Size; off += piece {
			n := min(piece, info.Size-off)
			if err := a.ReadAt(info.Name, p[:n], off); err != nil {
				return err
			}
			if err := b.ReadAt(info.Name, q[:n], off); err != nil {
				return err
			}
			if !bytes.Equal(p[:n], q[:n]) {
				return fmt.Errorf("%s: %s differs within %d bytes from byte %d", what, info.Name, n, off)
			}
		}
	}
	return nil
}
