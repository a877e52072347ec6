package certificate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tarbert/internal/gate"
	"tarbert/internal/store"
)

// PredicateType of a certificate.
const PredicateType = "https://tarbert.dev/attestation/release/v1"

const mostCertificate = 16 << 20

// Subject is what a statement is about.
type Subject struct {
	Name   string `json:"name"`
	Digest Digest `json:"digest"`
}

// Digest in in-toto's form.
type Digest struct {
	SHA256 string `json:"sha256"`
}

// Statement is an in-toto Statement v1 about a release.
type Statement struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     Release   `json:"predicate"`
}

// Release is the predicate: what was proved, on what evidence, and what was not.
type Release struct {
	ID     string    `json:"id"`   // "sums-1"
	Name   string    `json:"name"` // the spec's
	Tool   string    `json:"tool"` // version of tarbert
	Issued time.Time `json:"issued"`
	// Root is the folder that bound paths are relative to, itself relative to
	// the certificate's folder, with slashes: "../..".
	Root string `json:"root"`

	Source Stack `json:"source"` // what trained
	Target Stack `json:"target"` // what serves

	Stages []Stage `json:"stages"`
	Bound  []Bound `json:"bound"`
	// Signatures pairs bound model directories with their bound OpenSSF bundles.
	Signatures []ModelSignature `json:"signatures,omitempty"`
	Parity     Parity           `json:"parity"`

	// Waivers are the clauses of the policy that somebody lifted for this release.
	Waivers []string `json:"waivers,omitempty"`
	// NotRun names tests that exist and were not run, Untouched the hardware
	// this release is for and that nothing here has touched.
	NotRun    []string `json:"not_run"`
	Untouched []string `json:"untouched"`
	// Tiers says of every adapter used what has been done with it: "exercised",
	// "replayed" or "unexercised".
	Tiers map[string]string `json:"tiers"`
}

// Stack is hardware and software that a model runs on.
type Stack struct {
	Device    string `json:"device"` // "cpu: AMD EPYC …"
	Engine    string `json:"engine"`
	Version   string `json:"version,omitempty"`
	Precision string `json:"precision,omitempty"`
	Format    string `json:"format,omitempty"`
	// Rounding of int8 weights: compatible with the vendor's tool, or exact.
	Rounding string `json:"rounding,omitempty"`
}

// Stage is one gate that was passed.
type Stage struct {
	Name    string       `json:"name"`
	Verdict gate.Verdict `json:"verdict"`
	Reason  string       `json:"reason"`
	Inputs  string       `json:"inputs"` // digest of what it depends on
	Report  string       `json:"report"` // name of the bound report
	// Evidence is the name of the bound file that the verdict can be
	// recomputed from, where there is one.
	Evidence string `json:"evidence,omitempty"`
}

// Kinds of Bound.
const (
	KindFile  = "file"  // Digest is sha256 of its bytes
	KindModel = "model" // a directory; Digest is its OpenSSF root digest
)

// Bound is a file or directory that the certificate stands or falls with.
type Bound struct {
	Name   string `json:"name"`
	Path   string `json:"path"` // relative to Root, slashes
	Kind   string `json:"kind"`
	Digest string `json:"digest"`
	// Files of a model directory, name to sha256: the root digest does not hold names.
	Files map[string]string `json:"files,omitempty"`
}

// ModelSignature names a bound model and its bound bundle.
type ModelSignature struct {
	Model  string `json:"model"`
	Bundle string `json:"bundle"`
}

// Parity is how far the candidate was from the reference, in nats.
type Parity struct {
	Floor     *float64 `json:"floor,omitempty"` // mean clipped KL of the reference to itself
	Candidate float64  `json:"candidate"`
	Ratio     *float64 `json:"ratio,omitempty"`
	// RatioUpper is the 99 % upper bound that the verdict rests on.
	RatioUpper    *float64 `json:"ratio_upper,omitempty"`
	Tokens        int      `json:"tokens"`
	SmallestFault string   `json:"smallest_fault"`
}

// Bind digests what is at path, for a certificate whose root is root.
func Bind(root, name, path string) (Bound, error) {
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return Bound{}, fmt.Errorf("bind %s: %w", name, err)
	}
	b := Bound{Name: name, Path: filepath.ToSlash(rel)}
	if b.Digest, b.Kind, b.Files, err = digest(path); err != nil {
		return Bound{}, fmt.Errorf("bind %s: %w", name, err)
	}
	return b, nil
}

func digest(path string) (sum, kind string, files map[string]string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", "", nil, err
	}
	if !info.IsDir() {
		sum, err = store.FileDigest(path)
		return sum, KindFile, nil, err
	}
	m, err := manifest(path, ignored)
	if err != nil {
		return "", "", nil, err
	}
	files = map[string]string{}
	for _, r := range m {
		files[r.Name] = r.Digest
	}
	sum, err = rootDigest(m)
	return sum, KindModel, files, err
}

// Sign writes the certificate of r to path. Subjects name bound things by
// digest. It refuses a release with a stage that did not pass.
func Sign(path string, r Release, subjects []Subject, key *Key) error {
	st := Statement{Type: statementType, Subject: subjects, PredicateType: PredicateType, Predicate: r}
	if err := st.validate(); err != nil {
		return fmt.Errorf("sign certificate: %w", err)
	}
	payload, err := marshal(st, "  ")
	if err != nil {
		return fmt.Errorf("sign certificate: %w", err)
	}
	e, err := key.seal(payload, key.public.ID())
	if err != nil {
		return fmt.Errorf("sign certificate: %w", err)
	}
	text, err := e.text()
	if err != nil {
		return fmt.Errorf("sign certificate: %w", err)
	}
	return store.WriteFile(path, text, 0o644)
}

// text is the one form in which a certificate is written, so that no byte of
// the file is free to change.
func (e envelope) text() ([]byte, error) {
	b, err := marshal(e, "  ")
	return append(b, '\n'), err
}

// validate checks that the statement hangs together.
func (st *Statement) validate() error {
	r := &st.Predicate
	byName := map[string]Bound{}
	for _, b := range r.Bound {
		switch {
		case b.Name == "" || b.Path == "" || filepath.IsAbs(b.Path):
			return fmt.Errorf("bound %q: path %q must be relative to the root", b.Name, b.Path)
		case byName[b.Name].Name != "":
			return fmt.Errorf("%q is bound twice", b.Name)
		case b.Kind != KindFile && b.Kind != KindModel:
			return fmt.Errorf("bound %q: kind %q", b.Name, b.Kind)
		case b.Kind == KindModel && len(b.Files) == 0:
			return fmt.Errorf("bound %q: a model's root digest holds no names, so its files must be listed: use Bind", b.Name)
		}
		byName[b.Name] = b
	}
	need := func(name, by string) error {
		if byName[name].Name == "" {
			return fmt.Errorf("%s names %q, which is not bound", by, name)
		}
		return nil
	}
	var errs []error
	for _, s := range r.Stages {
		if s.Verdict != gate.Pass {
			errs = append(errs, fmt.Errorf("stage %s has verdict %q: only what passed is certified", s.Name, s.Verdict))
		}
		errs = append(errs, need(s.Report, "stage "+s.Name))
		if s.Evidence != "" {
			errs = append(errs, need(s.Evidence, "stage "+s.Name))
		}
	}
	for _, s := range r.Signatures {
		errs = append(errs, need(s.Model, "signature"), need(s.Bundle, "signature"))
	}
	for _, s := range st.Subject {
		if !slices.ContainsFunc(r.Bound, func(b Bound) bool { return b.Digest == s.Digest.SHA256 }) {
			errs = append(errs, fmt.Errorf("subject %q is not among what is bound", s.Name))
		}
	}
	if len(st.Subject) == 0 || len(r.Bound) == 0 {
		errs = append(errs, errors.New("a certificate needs subjects and bound files"))
	}
	if r.Root == "" || filepath.IsAbs(r.Root) {
		errs = append(errs, fmt.Errorf("root %q must be relative to the certificate's folder", r.Root))
	}
	return errors.Join(errs...)
}

// Read verifies the signature of the certificate at path and returns its
// statement. What it binds is not looked at.
func Read(path string, key *PublicKey) (*Statement, error) {
	text, err := readFile(path, mostCertificate)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	st, err := parse(text, key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", path, err)
	}
	return st, nil
}

func parse(text []byte, key *PublicKey) (*Statement, error) {
	var e envelope
	if err := decodeStrict(text, &e); err != nil {
		return nil, err
	}
	if len(e.Signatures) == 1 && e.Signatures[0].KeyID != key.ID() {
		return nil, fmt.Errorf("%w: made with key %.16s…, this is key %.16s…", ErrSignature, e.Signatures[0].KeyID, key.ID())
	}
	payload, err := e.open(key)
	if err != nil {
		return nil, err
	}
	if again, err := e.text(); err != nil || !bytes.Equal(again, text) {
		return nil, errors.New("the file is not in the form it was written in")
	}
	var st Statement
	if err := decodeStrict(payload, &st); err != nil {
		return nil, err
	}
	if st.Type != statementType || st.PredicateType != PredicateType {
		return nil, fmt.Errorf("statement is a %s of %s, want %s", st.Type, st.PredicateType, PredicateType)
	}
	return &st, st.validate()
}

// CheckOptions of Check.
type CheckOptions struct {
	// PublicKey is the file of the key that is trusted, keys/release.pub below
	// the home as a rule. A key found beside a certificate proves nothing.
	PublicKey string
	// Root overrides the certificate's own: where a moved release is.
	Root string
	// Recompute derives stages' verdicts anew from their evidence file, by stage name.
	Recompute map[string]func(evidencePath string) (gate.Verdict, error)
}

// CheckReport is what Check found in order.
type CheckReport struct {
	Statement  *Statement `json:"statement"`
	KeyID      string     `json:"key"`
	Bound      int        `json:"bound"`      // files and directories hashed again
	Signatures int        `json:"signatures"` // OpenSSF bundles verified
	Recomputed []string   `json:"recomputed"` // stages whose verdict was derived again
}

// Check verifies a certificate offline: its signature, the digest of
// everything it binds, the models' own signatures, and the verdicts that can be
// recomputed. The error names the first thing that is wrong.
func Check(ctx context.Context, path string, o CheckOptions) (*CheckReport, error) {
	key, err := LoadPublicKey(o.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", path, err)
	}
	st, err := Read(path, key)
	if err != nil {
		return nil, err
	}
	root := o.Root
	if root == "" {
		root = filepath.Join(filepath.Dir(path), filepath.FromSlash(st.Predicate.Root))
	}
	rep := &CheckReport{Statement: st, KeyID: key.ID(), Recomputed: []string{}}
	at := map[string]string{}
	for _, b := range st.Predicate.Bound {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		at[b.Name] = filepath.Join(root, filepath.FromSlash(b.Path))
		if err := b.check(at[b.Name]); err != nil {
			return nil, fmt.Errorf("certificate %s: %w", path, err)
		}
		rep.Bound++
	}
	for _, s := range st.Predicate.Signatures {
		if err := VerifyModel(at[s.Model], at[s.Bundle], key); err != nil {
			return nil, fmt.Errorf("certificate %s: %w", path, err)
		}
		rep.Signatures++
	}
	for _, s := range st.Predicate.Stages {
		recompute := o.Recompute[s.Name]
		if recompute == nil || s.Evidence == "" {
			continue
		}
		got, err := recompute(at[s.Evidence])
		if err != nil {
			return nil, fmt.Errorf("certificate %s: stage %s: %w", path, s.Name, err)
		}
		if got != s.Verdict {
			return nil, fmt.Errorf("certificate %s: stage %s says %s, its evidence says %s", path, s.Name, s.Verdict, got)
		}
		rep.Recomputed = append(rep.Recomputed, s.Name)
	}
	return rep, nil
}

// check hashes what is at path again.
func (b Bound) check(path string) error {
	sum, kind, files, err := digest(path)
	if errors.Is(err, os.ErrNotExist) {
		return &Mismatch{Path: path, What: "missing"}
	}
	if err != nil {
		return err
	}
	if kind == KindModel && b.Kind == KindModel {
		if err := compare(path, resources(b.Files), resources(files)); err != nil {
			return err
		}
	}
	if kind != b.Kind || sum != b.Digest {
		return &Mismatch{Path: path, What: "changed", Want: b.Digest, Got: sum}
	}
	return nil
}

func resources(files map[string]string) []resource {
	var out []resource
	for name, d := range files {
		out = append(out, resource{name, d, "sha256"})
	}
	slices.SortFunc(out, func(a, b resource) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return out
}
