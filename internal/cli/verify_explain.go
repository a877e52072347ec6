package cli

import (
	"context"

	"tarbert/internal/verify"
)

func (s *sides) explain(ctx context.Context, rep *verify.Report) error { return nil }
