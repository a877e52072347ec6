package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"tarbert/internal/certificate"
	"tarbert/internal/release"
	"tarbert/internal/verify"
)

func (a *app) certificateCommand() *cobra.Command {
	c := &cobra.Command{Use: "certificate", Short: "Show and check the certificate of a release"}
	var key string
	check := &cobra.Command{
		Use: "check FILE", Short: "Check a certificate offline: signature, every file it binds, the verdicts that can be recomputed; or a verification's evidence",
		Args: exactArgs(1, "a certificate file, or a verification's evidence"),
		RunE: func(c *cobra.Command, args []string) error {
			if isEvidence(args[0]) {
				return a.checkEvidence(args[0])
			}
			rep, err := release.CheckCertificate(c.Context(), args[0], keyFor(key, args[0]))
			if err != nil {
				if _, statErr := os.Stat(args[0]); statErr != nil {
					return badUsage("%w", err)
				}
				fmt.Fprintf(a.Err, "tarbert: %v\n", err)
				fmt.Fprintln(a.Out, "VOID")
				return gateSaidNo()
			}
			if a.json {
				return a.printJSON(rep)
			}
			fmt.Fprint(a.Out, renderStatement(rep.Statement))
			fmt.Fprintf(a.Out, "\nVALID  %d files and directories hashed again, %d model signatures, recomputed: %s\n",
				rep.Bound, rep.Signatures, strings.Join(rep.Recomputed, ", "))
			return nil
		},
	}
	show := &cobra.Command{
		Use: "show FILE", Short: "Show what a certificate says (its signature is verified, what it binds is not)",
		Args: exactArgs(1, "a certificate file"),
		RunE: func(c *cobra.Command, args []string) error {
			public, err := certificate.LoadPublicKey(keyFor(key, args[0]))
			if err != nil {
				return err
			}
			st, err := certificate.Read(args[0], public)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(st)
			}
			fmt.Fprint(a.Out, renderStatement(st))
			return nil
		},
	}
	c.PersistentFlags().StringVar(&key, "key", "", "public key to trust; default: keys/release.pub of the certificate's home, else the one beside it")
	c.AddCommand(show, check)
	return c
}

// isEvidence tells a verification's evidence from a certificate.
func isEvidence(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 256)
	n, _ := io.ReadFull(f, head) // a short file is no error here
	return strings.Contains(string(head[:n]), `"prompts_digest"`)
}

// checkEvidence derives a verification's verdict again from its raw numbers.
func (a *app) checkEvidence(path string) error {
	rep, err := verify.Recompute(path)
	if err != nil {
		fmt.Fprintf(a.Err, "tarbert: %v\n", err)
		fmt.Fprintln(a.Out, "VOID")
		return gateSaidNo()
	}
	if a.json {
		err = a.printJSON(rep)
	} else {
		_, err = fmt.Fprintf(a.Out, "%s\nRECOMPUTED  the numbers give the verdict and every statistic that the file holds; nothing signs it\n", renderVerification(rep, path))
	}
	if err == nil && !rep.Gate.Passed() {
		err = gateSaidNo()
	}
	return err
}

// keyFor finds the public key: the home's, from which releases/ID/certificate.json lies two folders down, else the copy beside it.
func keyFor(key, path string) string {
	if key != "" {
		return key
	}
	home := filepath.Join(filepath.Dir(path), "..", "..", "keys", "release.pub")
	if _, err := os.Stat(home); err == nil {
		return home
	}
	return filepath.Join(filepath.Dir(path), "release.pub")
}

func renderStatement(st *certificate.Statement) string {
	p := st.Predicate
	rows := [][]string{
		{"release", p.ID + ", issued " + p.Issued.Format("2006-01-02 15:04:05 MST")},
		{"trained on", stackText(p.Source)},
		{"served on", stackText(p.Target)},
	}
	for _, s := range st.Subject {
		rows = append(rows, []string{"subject", s.Name + " sha256:" + s.Digest.SHA256})
	}
	if p.Parity.Floor != nil {
		rows = append(rows, []string{"noise floor", fmt.Sprintf("KL %.3g nats a token", *p.Parity.Floor)})
	}
	candidate := fmt.Sprintf("KL %.3g nats a token over %d tokens", p.Parity.Candidate, p.Parity.Tokens)
	if p.Parity.Ratio != nil {
		candidate += fmt.Sprintf(", %.1f × the floor", *p.Parity.Ratio)
	}
	rows = append(rows, []string{"candidate", candidate}, []string{"could have seen", p.Parity.SmallestFault})
	for _, s := range p.Stages {
		rows = append(rows, []string{s.Name, string(s.Verdict) + ": " + clip(s.Reason, 100)})
	}
	for _, w := range p.Waivers {
		rows = append(rows, []string{"waiver", w})
	}
	for _, n := range p.NotRun {
		rows = append(rows, []string{"not run", n})
	}
	for _, n := range p.Untouched {
		rows = append(rows, []string{"never touched", n})
	}
	tiers, err := json.Marshal(p.Tiers)
	if err == nil {
		rows = append(rows, []string{"tiers", string(tiers)})
	}
	return table(rows)
}

func stackText(s certificate.Stack) string {
	parts := []string{s.Device, s.Engine, s.Precision, s.Format}
	if s.Rounding != "" {
		parts = append(parts, s.Rounding+" rounding")
	}
	var kept []string
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, " · ")
}
