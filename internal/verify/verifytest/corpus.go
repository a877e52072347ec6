package verifytest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Text is one declaration of the Go standard library's source: its first line,
// and what follows.
type Text struct{ Prompt, Rest string }

// Corpus is real text that every machine with a Go toolchain has: prose, code
// and numbers.
type Corpus struct {
	Train, HeldOut []Text
	Digest         string // of both
}

// Lengths of texts in bytes, which are the tokens of the models here.
const (
	shortestText = 96
	longestText  = 250
	shortestHead = 12
	longestHead  = 90
)

// ReadCorpus cuts the standard library into texts. A file is held out whole, by
// the hash of its path, so that no held-out text has a neighbour in training.
func ReadCorpus() (*Corpus, error) {
	root := filepath.Join(build.Default.GOROOT, "src")
	c := &Corpus{}
	seen := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "testdata" || d.Name() == "vendor" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasPrefix(d.Name(), "z") {
			return nil // z… are generated tables
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		into := &c.Train
		if h := sha256.Sum256([]byte(filepath.ToSlash(rel))); h[0] < 26 { // a tenth
			into = &c.HeldOut
		}
		for _, t := range texts(b) {
			if whole := t.Prompt + t.Rest; !seen[whole] {
				seen[whole] = true
				*into = append(*into, t)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the standard library's source: %w", err)
	}
	if len(c.Train) < 1000 || len(c.HeldOut) < 1000 {
		return nil, errors.New("read the standard library's source: too few texts in " + root)
	}
	h := sha256.New()
	for _, part := range []*[]Text{&c.Train, &c.HeldOut} {
		shuffleByHash(*part)
		for _, t := range *part {
			fmt.Fprintf(h, "%q %q\n", t.Prompt, t.Rest) // a hash's Write does not fail
		}
	}
	c.Digest = fmt.Sprintf("%x", h.Sum(nil))
	return c, nil
}

// texts are a file's top-level declarations, with their comments, of fitting
// size and in ASCII.
func texts(src []byte) []Text {
	var out []Text
	for _, block := range bytes.Split(src, []byte("\n\n")) {
		s := strings.TrimRight(string(block), "\n") + "\n"
		head, rest, _ := strings.Cut(s, "\n")
		head += "\n"
		switch {
		case len(s) < shortestText || len(s) > longestText, len(head) < shortestHead || len(head) > longestHead, len(rest) < 40:
		case s[0] == '\t' || s[0] == ' ' || strings.HasPrefix(s, "import") || strings.Contains(s, "Copyright"):
		case strings.ContainsFunc(s, func(r rune) bool { return r > 126 }):
		default:
			out = append(out, Text{head, rest})
		}
	}
	return out
}

// shuffleByHash orders texts by their own hashes: at random, and always alike.
func shuffleByHash(t []Text) {
	key := make(map[string][32]byte, len(t))
	for _, x := range t {
		key[x.Prompt+x.Rest] = sha256.Sum256([]byte(x.Prompt + x.Rest))
	}
	slices.SortFunc(t, func(a, b Text) int {
		x, y := key[a.Prompt+a.Rest], key[b.Prompt+b.Rest]
		return cmp.Or(bytes.Compare(x[:], y[:]), cmp.Compare(a.Prompt, b.Prompt))
	})
}
