package reference

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"tarbert/internal/tensor"
)

// SaveModel writes config.json in the published spelling and model.safetensors
// in float32 into dir, which is made if need be. Each file appears whole or
// not at all.
func (t *Trainable) SaveModel(dir string) error {
	config, err := t.net.c.JSON()
	if err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	var all []tensor.Tensor
	for _, p := range append(append([]Param(nil), t.params...), t.biases...) {
		all = append(all, tensor.FromFloat32(p.Name, p.Shape, p.Data, tensor.F32))
	}
	all = append(all, t.extra...)
	if err := tensor.WriteFile(filepath.Join(dir, "model.safetensors"), all, map[string]string{"format": "pt"}); err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	if err := writeFile(filepath.Join(dir, "config.json"), config); err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	return nil
}

// writeFile replaces a file durably: a temporary name, synced, renamed, and
// the directory synced.
func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil // the file is in place; some systems cannot open directories
	}
	return errors.Join(d.Sync(), d.Close())
}
