package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// errForeign says that a directory does not hold a conversion of ours.
var errForeign = errors.New("it has no " + recordName + " of ours")

func fileNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// writeRecord writes conversion.json.
func writeRecord(dir string, rep *Report) error {
	text, err := encodeRecord(rep)
	if err != nil {
		return err
	}
	return writeNew(filepath.Join(dir, recordName), text)
}

func encodeRecord(rep *Report) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	err := enc.Encode(rep)
	return b.Bytes(), err
}

// ReadRecord reads the record of a converted directory. That the directory is
// still as the record says is not checked.
func ReadRecord(dir string) (*Report, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errForeign
	}
	if err != nil {
		return nil, err
	}
	var rep Report
	if err := json.Unmarshal(b, &rep); err != nil {
		return nil, fmt.Errorf("%s: %w", recordName, err)
	}
	if rep.Version != recordVersion {
		return nil, fmt.Errorf("%s: version %d; this program reads version %d", recordName, rep.Version, recordVersion)
	}
	return &rep, nil
}

// verify proves that a directory has exactly the files of its record, unchanged.
func (rep *Report) verify(ctx context.Context, dir string) error {
	names, err := fileNames(dir)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == recordName })
	var listed []string
	for _, f := range rep.Files {
		if f.SHA256 != "" {
			listed = append(listed, f.Name)
			if !slices.Contains(names, f.Name) {
				return fmt.Errorf("%s is missing", f.Name)
			}
		}
	}
	for _, n := range names {
		if !slices.Contains(listed, n) {
			return fmt.Errorf("%s is not in %s", n, recordName)
		}
	}
	found, err := digestFiles(ctx, dir, listed)
	if err != nil {
		return err
	}
	for i, f := range found {
		j := slices.IndexFunc(rep.Files, func(r FileReport) bool { return r.Name == listed[i] && r.SHA256 != "" })
		if want := rep.Files[j]; f.SHA256 != want.SHA256 || f.Size != want.Size {
			return fmt.Errorf("%s has changed since it was written", f.Name)
		}
	}
	if FilesDigest(rep.Files) != rep.Digest {
		return fmt.Errorf("%s contradicts itself", recordName)
	}
	return nil
}

// reuse returns the record of dst if it is this conversion, complete.
func (c *conversion) reuse(ctx context.Context, dst string) (*Report, error) {
	rep, err := ReadRecord(dst)
	if err != nil {
		return nil, err
	}
	want := c.report()
	same := rep.Format == want.Format && rep.Rounding == want.Rounding && rep.Naming == want.Naming &&
		rep.ShardSize == want.ShardSize && slices.Equal(rep.Keep, want.Keep)
	if !same {
		return nil, errors.New("it holds a conversion with other options")
	}
	digest, err := c.sourceDigest(ctx)
	if err != nil {
		return nil, err
	}
	if digest != rep.SourceDigest {
		return nil, errors.New("it holds the conversion of another source")
	}
	return rep, rep.verify(ctx, dst)
}
