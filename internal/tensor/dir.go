package tensor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Dir is an open model directory: one safetensors file, or shards with their
// index. Its methods may be called concurrently.
type Dir struct {
	path  string
	files []*File
	index map[string]*File
}

// families are the base names under which a directory may hold its weights:
// Hugging Face's, then msmodelslim's.
var families = [...]string{"model", "quant_model_weights"}

// OpenDir opens the weights of a model directory: model.safetensors, or
// model-*.safetensors with model.safetensors.index.json, or the same under
// msmodelslim's name quant_model_weights. It refuses what could be read in two
// ways: two sets of weights, shards without an index, an index that is not
// exactly the union of the shards' headers.
func OpenDir(dir string) (*Dir, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open model directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	family, err := findFamily(dir, names)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: dir, index: map[string]*File{}}
	if err := d.open(family, names); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// belongs reports whether a file name is weights or index of a family.
func belongs(name, family string) bool {
	return name == family+".safetensors" || name == family+".safetensors.index.json" ||
		strings.HasPrefix(name, family+"-") && strings.HasSuffix(name, ".safetensors")
}

func findFamily(dir string, names []string) (string, error) {
	var found []string
	for _, family := range families {
		if slices.ContainsFunc(names, func(n string) bool { return belongs(n, family) }) {
			found = append(found, family)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 2:
		return "", fmt.Errorf("%s holds two sets of weights, %s*.safetensors and %s*.safetensors: remove one", dir, found[0], found[1])
	}
	for _, n := range names {
		switch filepath.Ext(n) {
		case ".bin", ".pt", ".pth", ".ckpt":
			return "", fmt.Errorf("%s has no safetensors; %s is a pickle, which can run code when it is read and is never opened: "+
				"save the model with save_pretrained(safe_serialization=True)", dir, n)
		}
	}
	return "", fmt.Errorf("%s has no weights: no model.safetensors, no %s", dir, IndexName)
}

func (d *Dir) open(family string, names []string) error {
	indexName := family + ".safetensors.index.json"
	single := family + ".safetensors"
	var onDisk []string
	for _, n := range names {
		if belongs(n, family) && n != indexName {
			onDisk = append(onDisk, n)
		}
	}
	if !slices.Contains(names, indexName) {
		if len(onDisk) != 1 || onDisk[0] != single {
			return fmt.Errorf("%s: %s is there without %s, which says what belongs to the model", d.path, onDisk[0], indexName)
		}
		return d.add([]string{single})
	}
	path := filepath.Join(d.path, indexName)
	x, err := readIndex(path)
	if err != nil {
		return err
	}
	shards := x.shards()
	for _, n := range onDisk {
		if !slices.Contains(shards, n) {
			return fmt.Errorf("%s: %s is not in the index: it is left over from another model (remove it), or the index is stale (fetch both again)", path, n)
		}
	}
	for _, s := range shards {
		if !slices.Contains(names, s) {
			return fmt.Errorf("%s: shard %s is missing from the directory: fetch it again", path, s)
		}
	}
	if err := d.add(shards); err != nil {
		return err
	}
	return x.checkUnion(path, d.files)
}

func (d *Dir) add(files []string) error {
	for _, name := range files {
		f, err := Open(filepath.Join(d.path, name))
		if err != nil {
			return err
		}
		d.files = append(d.files, f)
		for _, info := range f.infos {
			d.index[info.Name] = f
		}
	}
	return nil
}

// Close closes the files.
func (d *Dir) Close() error {
	var err error
	for _, f := range d.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// Path is the directory given to OpenDir.
func (d *Dir) Path() string { return d.path }

// Files lists the files that hold tensors, in the order of their names.
func (d *Dir) Files() []string {
	var names []string
	for _, f := range d.files {
		names = append(names, filepath.Base(f.path))
	}
	return names
}

// Metadata is the first file's.
func (d *Dir) Metadata() map[string]string { return d.files[0].Metadata() }

// Infos lists the tensors in the order of their files and bytes.
func (d *Dir) Infos() []Info {
	n := 0
	for _, f := range d.files {
		n += len(f.infos)
	}
	infos := make([]Info, 0, n)
	for _, f := range d.files {
		infos = append(infos, f.infos...)
	}
	slices.SortStableFunc(infos, byFile)
	return infos
}

// Info finds a tensor by name.
func (d *Dir) Info(name string) (Info, bool) {
	f, ok := d.index[name]
	if !ok {
		return Info{}, false
	}
	return f.Info(name)
}

func (d *Dir) file(name string) (*File, error) {
	f, ok := d.index[name]
	if !ok {
		return nil, fmt.Errorf("%s: no tensor %q", d.path, name)
	}
	return f, nil
}

// ReadAt fills p with a tensor's bytes from offset off within the tensor.
func (d *Dir) ReadAt(name string, p []byte, off int64) error {
	f, err := d.file(name)
	if err != nil {
		return err
	}
	return f.ReadAt(name, p, off)
}

// Bytes reads a tensor as stored.
func (d *Dir) Bytes(name string) ([]byte, error) {
	f, err := d.file(name)
	if err != nil {
		return nil, err
	}
	return f.Bytes(name)
}

// Float32 reads an F32, BF16 or F16 tensor, widened exactly.
func (d *Dir) Float32(name string) ([]float32, error) {
	f, err := d.file(name)
	if err != nil {
		return nil, err
	}
	return f.Float32(name)
}
