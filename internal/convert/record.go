package convert

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// writeRecord writes conversion.json: what concerns the whole, then one line for
// each tensor. It is never in memory as a whole: there may be 100,000.
func writeRecord(dir string, rep *Report) error {
	return writeWith(filepath.Join(dir, recordName), func(f io.Writer) error {
		w := bufio.NewWriter(f)
		if err := encodeRecord(w, rep); err != nil {
			return err
		}
		return w.Flush()
	})
}

func encodeRecord(w *bufio.Writer, rep *Report) error {
	head := *rep
	head.Tensors = nil
	b, err := marshal(head, " ")
	if err != nil {
		return err
	}
	begin, found := bytes.CutSuffix(b, []byte("null\n}"))
	if !found {
		return errors.New("the record's tensors are not its last member")
	}
	w.Write(begin)
	w.WriteByte('[')
	for i := range rep.Tensors {
		if b, err = marshal(rep.Tensors[i], ""); err != nil {
			return err
		}
		if i > 0 {
			w.WriteByte(',')
		}
		w.WriteString("\n  ")
		w.Write(b)
	}
	_, err = w.WriteString("\n ]\n}\n") // a bufio.Writer remembers the first error
	return err
}

// marshal is JSON without the escapes that HTML needs.
func marshal(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
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
	same := rep.Format == want.Format && rep.Rounding == want.Rounding && rep.Naming == want.Naming && rep.Layout == want.Layout && rep.Scales == want.Scales &&
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
