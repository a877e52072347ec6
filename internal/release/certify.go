package release

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"tarbert/internal/certificate"
	"tarbert/internal/device"
	"tarbert/internal/gate"
	"tarbert/internal/plan"
	"tarbert/internal/verify"
)

// Names of the files of a certified release, in its folder below the home.
const (
	certificateName = "certificate.json"
	signatureName   = "model.sig"
	publicKeyName   = "release.pub"
)

func (r *run) certificatePath() string { return filepath.Join(r.dir, certificateName) }

// certify signs the released model and the statement about it. Every stage so far has passed.
func (r *run) certify(ctx context.Context) error {
	if err := r.allPassed(); err != nil {
		return err
	}
	key, err := certificate.LoadOrCreateKey(filepath.Join(r.Home, "keys", "release.key"))
	if err != nil {
		return err
	}
	candidate, err := r.candidate()
	if err != nil {
		return err
	}
	bundle := filepath.Join(r.dir, signatureName)
	if err := certificate.SignModel(candidate, bundle, key); err != nil {
		return err
	}
	if err := copyFile(certificate.PublicPath(filepath.Join(r.Home, "keys", "release.key")), filepath.Join(r.dir, publicKeyName)); err != nil {
		return err
	}
	signature, err := certificate.Bind(r.Home, "model-signature", bundle)
	if err != nil {
		return err
	}
	st := r.statement()
	st.Bound = append(st.Bound, signature)
	model := "model-" + r.format()
	st.Signatures = []certificate.ModelSignature{{Model: model, Bundle: signature.Name}}
	subjects, err := st.subjects(model, "dataset")
	if err != nil {
		return err
	}
	return certificate.Sign(r.certificatePath(), st.Release, subjects, key)
}

// statement is what this release has proved, on what, and what it has not.
type statement struct{ certificate.Release }

func (r *run) statement() statement {
	host := func(d device.Device) string { return string(d.Vendor) + ": " + d.Model }
	trainer, _ := r.spec.TrainerOf(r.trainedOn().Pool)
	c := certificate.Release{
		ID: r.id, Name: r.spec.Name, Tool: r.Version, Issued: r.Now().UTC(), Root: "../..",
		Source:    certificate.Stack{Device: host(r.trainedOn().Device), Engine: trainer, Version: r.Version, Precision: r.spec.Train.DType, Format: "f32"},
		Target:    certificate.Stack{Device: host(r.plan.Target.Device), Engine: servingEngine, Version: r.Version, Precision: precisionOf(r.format()), Format: r.format(), Rounding: r.rounding()},
		Bound:     append([]certificate.Bound{}, r.bound...),
		Parity:    certificate.Parity{Candidate: r.verify.KL.Value, Tokens: r.verify.Tokens, SmallestFault: r.verify.Smallest.Text},
		Waivers:   append(r.plan.Waivers(), r.qualify.Waivers...),
		NotRun:    r.notRun(),
		Untouched: untouched(r),
		Tiers: map[string]string{
			"device/cpu": "exercised", "device/nvidia": "replayed", "device/ascend": "replayed",
			"executor/local": "exercised", "engine/reference": "exercised",
		},
	}
	if f := r.verify.FloorKL; f != nil {
		c.Parity.Floor = &f.Value
	}
	if q := r.verify.Ratio; q != nil {
		c.Parity.Ratio, c.Parity.RatioUpper = &q.Value, &q.Upper
	}
	for _, s := range r.done {
		st := certificate.Stage{Name: s.Stage, Verdict: s.Gate.Verdict, Reason: s.Gate.Reason, Inputs: s.Digest, Report: s.Stage + "-report"}
		if s.Stage == "verify" {
			st.Evidence = "verify-evidence"
		}
		c.Stages = append(c.Stages, st)
	}
	return statement{c}
}

// trainedOn is where the training ended, which is where the plan had it unless it moved.
func (r *run) trainedOn() plan.Placement {
	for _, o := range r.plan.Options {
		if o.Placement != nil && o.Pool == r.train.Pool {
			return *o.Placement
		}
	}
	return *r.plan.Train
}

// notRun names the tests that this release could have had and did not.
func (r *run) notRun() []string {
	out := []string{"load, replicas and the reverse test of the verification protocol"}
	if r.format() == "w8a8-ascend" && r.plan.Target.Device.Vendor != device.Ascend {
		out = append(out, "the released files in vllm-ascend on an Ascend chip")
	}
	return append(out, r.qualify.Unchecked...)
}

// untouched names the pools of the spec whose chips are not on any node here.
func untouched(r *run) []string {
	var out []string
	for _, p := range r.spec.Pools {
		if p.Name != r.plan.Train.Pool && p.Name != r.trainedOn().Pool && p.Name != r.plan.Target.Pool {
			out = append(out, fmt.Sprintf("pool %s (%s)", p.Name, p.Vendor))
		}
	}
	return out
}

func (s statement) subjects(names ...string) ([]certificate.Subject, error) {
	var out []certificate.Subject
	for _, name := range names {
		found := false
		for _, b := range s.Bound {
			if b.Name == name {
				out = append(out, certificate.Subject{Name: name, Digest: certificate.Digest{SHA256: b.Digest}})
				found = true
			}
		}
		if !found {
			return nil, fmt.Errorf("%s was not bound by any stage", name)
		}
	}
	return out, nil
}

// checkCertificate is what serve asks before it serves.
func (r *run) checkCertificate(ctx context.Context, path string) error {
	_, err := CheckCertificate(ctx, path, filepath.Join(r.Home, "keys", "release.pub"))
	return err
}

// CheckCertificate verifies a release's certificate offline: the signature, everything it binds, and
// the verification's verdict, derived again from its raw numbers.
func CheckCertificate(ctx context.Context, path, publicKey string) (*certificate.CheckReport, error) {
	return certificate.Check(ctx, path, certificate.CheckOptions{
		PublicKey: publicKey,
		Recompute: map[string]func(string) (gate.Verdict, error){
			"verify": func(evidence string) (gate.Verdict, error) {
				rep, err := verify.Recompute(evidence)
				if err != nil {
					return "", err
				}
				if rep == nil {
					return "", errors.New("no verdict in the evidence")
				}
				return rep.Gate.Verdict, nil
			},
		},
	})
}
