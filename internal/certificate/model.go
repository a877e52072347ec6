package certificate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"tarbert/internal/store"
)

// OpenSSF Model Signing v1.0, as model_signing 1.1.1 writes it.
const (
	bundleMediaType    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	modelPredicateType = "https://model_signing/signature/v1.0"
	statementType      = "https://in-toto.io/Statement/v1"
	mostBundle         = 64 << 20
)

// ignored are the paths below a model directory that its digest leaves out,
// in model_signing's order.
var ignored = []string{".gitattributes", ".gitignore", ".github", ".git"} //nolint:gochecknoglobals // a constant that Go has no form for

type resource struct {
	Name      string `json:"name"` // slashes, relative to the model
	Digest    string `json:"digest"`
	Algorithm string `json:"algorithm"`
}

type serialization struct {
	AllowSymlinks bool     `json:"allow_symlinks"`
	HashType      string   `json:"hash_type"`
	Method        string   `json:"method"`
	IgnorePaths   []string `json:"ignore_paths"`
}

type modelStatement struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     struct {
		Serialization serialization `json:"serialization"`
		Resources     []resource    `json:"resources"`
	} `json:"predicate"`
}

type bundle struct {
	MediaType            string `json:"mediaType"`
	VerificationMaterial struct {
		PublicKey struct {
			Hint string `json:"hint"`
		} `json:"publicKey"`
		TlogEntries []json.RawMessage `json:"tlogEntries"`
	} `json:"verificationMaterial"`
	DSSEEnvelope envelope `json:"dsseEnvelope"`
}

// Mismatch is the first thing found that is not what was signed.
type Mismatch struct {
	Path string
	What string // "changed", "missing", "not signed"
	// Want and Got are digests, where there are two.
	Want, Got string
}

// Error names the path.
func (m *Mismatch) Error() string {
	s := m.Path + ": " + m.What
	if m.Got != "" {
		s += fmt.Sprintf(" (sha256 %.12s…, signed %.12s…)", m.Got, m.Want)
	}
	return s
}

// ModelDigest is the OpenSSF root digest of a model directory: hex sha256 over
// the sha256 digests of its files in order of their names. Names are not in it:
// use SignModel and VerifyModel, or the certificate, to hold them as well.
func ModelDigest(dir string) (string, error) {
	r, err := manifest(dir, ignored)
	if err != nil {
		return "", err
	}
	return rootDigest(r)
}

// manifest hashes every regular file below dir. Symbolic links, devices and
// names that are not UTF-8 are refused; directories themselves do not count.
func manifest(dir string, ignore []string) ([]resource, error) {
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		switch {
		case slices.Contains(ignore, name):
			if d.IsDir() {
				return filepath.SkipDir
			}
		case d.IsDir():
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is neither a file nor a directory (%v): a model cannot be signed with it", path, d.Type())
		case !utf8.ValidString(name):
			return fmt.Errorf("%q: file name is not UTF-8", path)
		default:
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", dir, err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("model %s: no files", dir)
	}
	slices.Sort(names)
	out := make([]resource, len(names))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		g.Go(func() error {
			digest, err := store.FileDigest(filepath.Join(dir, filepath.FromSlash(name)))
			out[i] = resource{name, digest, "sha256"}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("model %s: %w", dir, err)
	}
	return out, nil
}

func rootDigest(r []resource) (string, error) {
	h := sha256.New()
	for _, x := range r {
		b, err := hex.DecodeString(x.Digest)
		if err != nil || len(b) != sha256.Size || x.Algorithm != "sha256" {
			return "", fmt.Errorf("%s: digest %q is not a sha256", x.Name, x.Digest)
		}
		h.Write(b) // a hash's Write does not fail
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// SignModel writes the OpenSSF Model Signing bundle of the model directory to
// bundlePath, which must be outside of it. "model_signing verify key
// --public_key KEY.pub --signature BUNDLE DIR" accepts it.
func SignModel(dir, bundlePath string, key *Key) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("sign model: %w", err)
	}
	out, err := filepath.Abs(bundlePath)
	if err != nil {
		return fmt.Errorf("sign model: %w", err)
	}
	if rel, err := filepath.Rel(abs, out); err == nil && filepath.IsLocal(rel) {
		return fmt.Errorf("sign model: the bundle %s would be inside the model it signs: write it beside %s", bundlePath, dir)
	}
	st := modelStatement{Type: statementType, PredicateType: modelPredicateType}
	if st.Predicate.Resources, err = manifest(abs, ignored); err != nil {
		return fmt.Errorf("sign %w", err)
	}
	root, err := rootDigest(st.Predicate.Resources)
	if err != nil {
		return fmt.Errorf("sign model: %w", err)
	}
	st.Subject = []Subject{{filepath.Base(abs), Digest{root}}}
	st.Predicate.Serialization = serialization{HashType: "sha256", Method: "files", IgnorePaths: ignored}
	payload, err := marshal(st, "  ")
	if err != nil {
		return fmt.Errorf("sign model: %w", err)
	}
	b := bundle{MediaType: bundleMediaType}
	b.VerificationMaterial.PublicKey.Hint = key.public.hint()
	b.VerificationMaterial.TlogEntries = []json.RawMessage{}
	if b.DSSEEnvelope, err = key.seal(payload, ""); err != nil {
		return fmt.Errorf("sign model: %w", err)
	}
	text, err := marshal(b, "")
	if err != nil {
		return fmt.Errorf("sign model: %w", err)
	}
	return store.WriteFile(bundlePath, text, 0o644)
}

// marshal writes JSON as Python does: no HTML escapes, no newline at the end.
func marshal(v any, indent string) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// VerifyModel checks a model directory against a bundle of OpenSSF Model
// Signing v1.0, ours or the model_signing tool's: signature, root digest, and
// every file. Changed, missing and extra files give a *Mismatch.
func VerifyModel(dir, bundlePath string, key *PublicKey) error {
	st, err := openBundle(bundlePath, key)
	if err != nil {
		return fmt.Errorf("model signature %s: %w", bundlePath, err)
	}
	found, err := manifest(dir, st.Predicate.Serialization.IgnorePaths)
	if err != nil {
		return err
	}
	return compare(dir, st.Predicate.Resources, found)
}

func openBundle(path string, key *PublicKey) (*modelStatement, error) {
	text, err := readFile(path, mostBundle)
	if err != nil {
		return nil, err
	}
	var b bundle
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, err
	}
	if b.MediaType != bundleMediaType {
		return nil, fmt.Errorf("media type is %q, want %q", b.MediaType, bundleMediaType)
	}
	if hint := b.VerificationMaterial.PublicKey.Hint; hint != "" && hint != key.hint() {
		return nil, fmt.Errorf("%w: made with another key", ErrSignature)
	}
	payload, err := b.DSSEEnvelope.open(key)
	if err != nil {
		return nil, err
	}
	var st modelStatement
	if err := json.Unmarshal(payload, &st); err != nil {
		return nil, err
	}
	return &st, st.validate()
}

func (st *modelStatement) validate() error {
	s := st.Predicate.Serialization
	switch {
	case st.Type != statementType || st.PredicateType != modelPredicateType:
		return fmt.Errorf("statement is a %s of %s, want %s", st.Type, st.PredicateType, modelPredicateType)
	case len(st.Subject) != 1:
		return fmt.Errorf("%d subjects, want one", len(st.Subject))
	case s.Method != "files" || s.HashType != "sha256" || s.AllowSymlinks:
		return fmt.Errorf("serialization by %s with %s is not supported: sign with the defaults", s.Method, s.HashType)
	}
	root, err := rootDigest(st.Predicate.Resources)
	if err != nil {
		return err
	}
	if root != st.Subject[0].Digest.SHA256 {
		return errors.New("root digest is not that of the resources")
	}
	return nil
}

// compare walks two sorted manifests.
func compare(dir string, signed, found []resource) error {
	signed = slices.Clone(signed)
	slices.SortFunc(signed, func(a, b resource) int { return strings.Compare(a.Name, b.Name) })
	for i, j := 0, 0; i < len(signed) || j < len(found); {
		switch {
		case j == len(found) || (i < len(signed) && signed[i].Name < found[j].Name):
			return &Mismatch{Path: filepath.Join(dir, signed[i].Name), What: "missing"}
		case i == len(signed) || signed[i].Name > found[j].Name:
			return &Mismatch{Path: filepath.Join(dir, found[j].Name), What: "not signed"}
		case signed[i].Digest != found[j].Digest:
			return &Mismatch{Path: filepath.Join(dir, found[j].Name), What: "changed", Want: signed[i].Digest, Got: found[j].Digest}
		}
		i, j = i+1, j+1
	}
	return nil
}
