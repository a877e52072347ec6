package certificate

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"tarbert/internal/gate"
)

// home is a folder with a certified release in it.
type home struct {
	dir, certificate, public string
	key                      *Key
	release                  Release
	subjects                 []Subject
}

func (h home) path(rel string) string { return filepath.Join(h.dir, filepath.FromSlash(rel)) }

func newHome(t *testing.T) home {
	t.Helper()
	h := home{dir: t.TempDir()}
	h.certificate, h.public = h.path("releases/sums-1/certificate.json"), h.path("keys/release.pub")
	files := map[string]string{
		"releases/sums-1/label/report.json": `{"alpha":0.8}`, "releases/sums-1/verify/report.json": `{"kl":0.001}`,
		"releases/sums-1/verify/verify-evidence.json": `{"version":1}`, "releases/sums-1/label/dataset.jsonl": "{}\n",
		"releases/sums-1/model/config.json": "{}", "releases/sums-1/model/weights.bin": "\x00\x01\x02",
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(h.path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.path(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if h.key, err = LoadOrCreateKey(h.path("keys/release.key")); err != nil {
		t.Fatal(err)
	}
	if err := SignModel(h.path("releases/sums-1/model"), h.path("releases/sums-1/model.sig"), h.key); err != nil {
		t.Fatal(err)
	}
	floor := 1e-4
	h.release = Release{
		ID: "sums-1", Name: "sums", Tool: "test", Issued: time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC), Root: "../..",
		Stages: []Stage{
			{Name: "label", Verdict: gate.Pass, Report: "label-report"},
			{Name: "verify", Verdict: gate.Pass, Report: "verify-report", Evidence: "verify-evidence"},
		},
		Signatures: []ModelSignature{{"model", "model-signature"}},
		Parity:     Parity{Floor: &floor, Candidate: 1e-3, Tokens: 4000, SmallestFault: "x"},
		NotRun:     []string{"soak"}, Untouched: []string{"ascend"}, Tiers: map[string]string{"engine/reference": "exercised"},
	}
	for _, b := range []struct{ name, path string }{
		{"label-report", "releases/sums-1/label/report.json"}, {"dataset", "releases/sums-1/label/dataset.jsonl"},
		{"verify-report", "releases/sums-1/verify/report.json"}, {"verify-evidence", "releases/sums-1/verify/verify-evidence.json"},
		{"model", "releases/sums-1/model"}, {"model-signature", "releases/sums-1/model.sig"},
	} {
		bound, err := Bind(h.dir, b.name, h.path(b.path))
		if err != nil {
			t.Fatal(err)
		}
		h.release.Bound = append(h.release.Bound, bound)
		if b.name == "model" || b.name == "dataset" {
			h.subjects = append(h.subjects, Subject{b.name, Digest{bound.Digest}})
		}
	}
	if err := Sign(h.certificate, h.release, h.subjects, h.key); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h home) check(t *testing.T, o CheckOptions) (*CheckReport, error) {
	if o.PublicKey == "" {
		o.PublicKey = h.public
	}
	return Check(t.Context(), h.certificate, o)
}

func TestSignAndCheck(t *testing.T) {
	h := newHome(t)
	asked := ""
	rep, err := h.check(t, CheckOptions{Recompute: map[string]func(string) (gate.Verdict, error){
		"verify": func(path string) (gate.Verdict, error) { asked = path; return gate.Pass, nil },
		"label":  func(string) (gate.Verdict, error) { t.Error("label has no evidence"); return gate.Fail, nil },
	}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(h.release, rep.Statement.Predicate); diff != "" {
		t.Errorf("release (-signed +read):\n%s", diff)
	}
	if diff := cmp.Diff(h.subjects, rep.Statement.Subject); diff != "" {
		t.Errorf("subjects (-signed +read):\n%s", diff)
	}
	if rep.Bound != 6 || rep.Signatures != 1 || len(rep.Recomputed) != 1 || rep.KeyID != h.key.Public().ID() {
		t.Errorf("report %+v", rep)
	}
	if asked != h.path("releases/sums-1/verify/verify-evidence.json") {
		t.Errorf("recomputed from %q", asked)
	}
}

// The envelope is DSSE as others read it.
func TestEnvelopeIsDSSE(t *testing.T) {
	h := newHome(t)
	text, err := os.ReadFile(h.certificate)
	if err != nil {
		t.Fatal(err)
	}
	var e dsse.Envelope
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatal(err)
	}
	v, err := dsse.NewEnvelopeVerifier(oracle{h.key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), &e); err != nil {
		t.Error(err)
	}
	payload, err := e.DecodeB64Payload()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dsse.PAE(e.PayloadType, payload), pae(e.PayloadType, payload)) {
		t.Error("another pre-authentication encoding")
	}
}

// oracle lets the DSSE library call our key.
type oracle struct{ p *PublicKey }

func (o oracle) Verify(_ context.Context, data, sig []byte) error {
	if !o.p.verify(data, sig) {
		return ErrSignature
	}
	return nil
}
func (o oracle) KeyID() (string, error)   { return o.p.ID(), nil }
func (o oracle) Public() crypto.PublicKey { return o.p.key }

func TestOneChangedByteFails(t *testing.T) {
	h := newHome(t)
	var changed int
	err := filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, "/keys/") || path == h.certificate {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for at := 0; at < len(b); at += 1 + len(b)/8 {
			if err := flip(path, at); err != nil {
				return err
			}
			_, err := h.check(t, CheckOptions{})
			var m *Mismatch
			if !errors.As(err, &m) || m.Path != path || m.What != "changed" {
				t.Errorf("byte %d of %s: %v", at, path, err)
			}
			if err := flip(path, at); err != nil {
				return err
			}
			changed++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if changed < 20 {
		t.Errorf("only %d bytes were tried", changed)
	}
	if _, err := h.check(t, CheckOptions{}); err != nil {
		t.Errorf("put back: %v", err)
	}
}

func TestAnyByteOfTheCertificate(t *testing.T) {
	h := newHome(t)
	text, err := os.ReadFile(h.certificate)
	if err != nil {
		t.Fatal(err)
	}
	for at := range text {
		b := bytes.Clone(text)
		b[at] ^= []byte{1, 0x20}[at%2]
		if _, err := parse(b, h.key.Public()); err == nil {
			t.Fatalf("byte %d of the certificate, %q for %q: accepted", at, b[at], text[at])
		}
	}
	for name, b := range map[string][]byte{
		"a space more": append(bytes.Clone(text), ' '), "a byte less": text[:len(text)-1], "empty": nil,
	} {
		if _, err := parse(b, h.key.Public()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, h *home) error
		o      CheckOptions
		says   string
	}{
		{"missing file", func(t *testing.T, h *home) error { return os.Remove(h.path("releases/sums-1/label/dataset.jsonl")) }, CheckOptions{}, "dataset.jsonl: missing"},
		{"missing model", func(t *testing.T, h *home) error { return os.RemoveAll(h.path("releases/sums-1/model")) }, CheckOptions{}, "model: missing"},
		{"extra file in the model", func(t *testing.T, h *home) error {
			return os.WriteFile(h.path("releases/sums-1/model/a"), nil, 0o644)
		}, CheckOptions{}, "a: not signed"},
		{"renamed in the model", func(t *testing.T, h *home) error {
			return os.Rename(h.path("releases/sums-1/model/weights.bin"), h.path("releases/sums-1/model/weights.dat"))
		}, CheckOptions{}, "weights.bin: missing"},
		{"a file where a model was", func(t *testing.T, h *home) error {
			return errors.Join(os.RemoveAll(h.path("releases/sums-1/model")), os.WriteFile(h.path("releases/sums-1/model"), nil, 0o644))
		}, CheckOptions{}, "model: changed"},
		{"another key", func(t *testing.T, h *home) error {
			h.public = PublicPath(newKeyPath(t))
			return nil
		}, CheckOptions{}, "made with key"},
		{"no key", func(t *testing.T, h *home) error { h.public = h.path("keys/nothing.pub"); return nil }, CheckOptions{}, "no such file"},
		{"evidence says otherwise", nil, CheckOptions{Recompute: map[string]func(string) (gate.Verdict, error){
			"verify": func(string) (gate.Verdict, error) { return gate.Inconclusive, nil },
		}}, "its evidence says inconclusive"},
		{"evidence unreadable", nil, CheckOptions{Recompute: map[string]func(string) (gate.Verdict, error){
			"verify": func(string) (gate.Verdict, error) { return "", errors.New("bad numbers") },
		}}, "bad numbers"},
		{"signed again by somebody else", func(t *testing.T, h *home) error {
			k, err := LoadOrCreateKey(newKeyPath(t))
			return errors.Join(err, Sign(h.certificate, h.release, h.subjects, k))
		}, CheckOptions{}, "signature is not valid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHome(t)
			if tt.change != nil {
				if err := tt.change(t, &h); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := h.check(t, tt.o); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %q", err, tt.says)
			}
		})
	}
}

func newKeyPath(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "other.key")
	if _, err := LoadOrCreateKey(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMovedHome(t *testing.T) {
	h := newHome(t)
	to := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Rename(h.dir, to); err != nil {
		t.Fatal(err)
	}
	moved := filepath.Join(to, "releases", "sums-1", "certificate.json")
	if _, err := Check(t.Context(), moved, CheckOptions{PublicKey: filepath.Join(to, "keys", "release.pub")}); err != nil {
		t.Error(err)
	}
	out := filepath.Join(t.TempDir(), "certificate.json")
	if err := os.Rename(moved, out); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(t.Context(), out, CheckOptions{PublicKey: filepath.Join(to, "keys", "release.pub"), Root: to}); err != nil {
		t.Errorf("certificate sent elsewhere, root given: %v", err)
	}
}

func TestSignRefuses(t *testing.T) {
	for name, change := range map[string]func(r *Release, s *[]Subject){
		"a stage that failed":       func(r *Release, _ *[]Subject) { r.Stages[1].Verdict = gate.Fail },
		"an inconclusive stage":     func(r *Release, _ *[]Subject) { r.Stages[1].Verdict = gate.Inconclusive },
		"a stage with no verdict":   func(r *Release, _ *[]Subject) { r.Stages[1].Verdict = "" },
		"a report that is free":     func(r *Release, _ *[]Subject) { r.Stages[0].Report = "elsewhere" },
		"evidence that is free":     func(r *Release, _ *[]Subject) { r.Stages[1].Evidence = "elsewhere" },
		"a subject that is free":    func(_ *Release, s *[]Subject) { (*s)[0].Digest.SHA256 = strings.Repeat("0", 64) },
		"no subject":                func(_ *Release, s *[]Subject) { *s = nil },
		"a name twice":              func(r *Release, _ *[]Subject) { r.Bound[1].Name = r.Bound[0].Name },
		"an absolute path":          func(r *Release, _ *[]Subject) { r.Bound[1].Path = "/etc/passwd" },
		"an absolute root":          func(r *Release, _ *[]Subject) { r.Root = "/" },
		"no root":                   func(r *Release, _ *[]Subject) { r.Root = "" },
		"another kind":              func(r *Release, _ *[]Subject) { r.Bound[0].Kind = "idea" },
		"a model without its files": func(r *Release, _ *[]Subject) { r.Bound[4].Files = nil },
		"a bundle that is free":     func(r *Release, _ *[]Subject) { r.Signatures[0].Bundle = "elsewhere" },
	} {
		h := newHome(t)
		change(&h.release, &h.subjects)
		path := filepath.Join(t.TempDir(), "c.json")
		if err := Sign(path, h.release, h.subjects, h.key); err == nil {
			t.Errorf("%s was signed", name)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s left a file", name)
		}
	}
}

func TestKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "release.key")
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			k, err := LoadOrCreateKey(path)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = k.Public().ID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || len(id) != 64 {
			t.Errorf("eight at once made keys %v", ids)
			break
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 2 {
		t.Errorf("keys folder holds %v, %v", entries, err)
	}
	p, err := LoadPublicKey(PublicPath(path))
	if err != nil || p.ID() != ids[0] {
		t.Errorf("public half: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte("not a key"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); err == nil {
		t.Error("nonsense is a key")
	}
}

func FuzzCertificate(f *testing.F) {
	f.Add([]byte(`{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"MEQ=","keyid":"x"}]}`))
	f.Add([]byte(`{}`))
	key, err := LoadPublicKey(filepath.Join(sample, "pub.pem"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parse(b, key); err == nil {
			t.Error("accepted without the private key")
		}
	})
}
