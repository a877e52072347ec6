package nvidia

import (
	"testing"

	"tarbert/internal/device"
)

func TestRemedy(t *testing.T) {
	var d Driver
	for code, want := range map[string]device.Remedy{
		"79": device.RemedyNode, "Xid 31": device.RemedyProcess, "109": device.RemedyReset, "63": device.RemedyNone,
		"48": device.RemedyUnknown, "74": device.RemedyUnknown, "9999": device.RemedyUnknown, "": device.RemedyUnknown, "x": device.RemedyUnknown,
	} {
		if got := d.Remedy(code); got != want {
			t.Errorf("%s: %q, want %q", code, got, want)
		}
	}
}
