package kernel

// blockNEON covers t with tiles of four rows and half a panel; rows left over
// take a panel one by one.
func blockNEON(t block) {
	for j := 0; j < t.cols; j += panelCols {
		panel := t
		panel.cols, panel.b, panel.c = min(panelCols, t.cols-j), t.b[j/panelCols*t.bps:], t.c[j:]
		switch {
		case panel.cols == panelCols:
			wholePanelNEON(panel)
		case t.bks == panelCols: // packed: the columns that are not there can be read
			partPanelNEON(panel)
		default:
			blockGo(panel)
		}
	}
}

func wholePanelNEON(t block) {
	i := 0
	for ; i+4 <= t.rows; i += 4 {
		for j := 0; j < panelCols; j += 16 {
			tile4x16NEON(&t.a[i*t.ars], t.ars, t.aks, &t.b[j], t.bks, &t.c[i*t.ldc+j], t.ldc, t.k, t.load)
		}
	}
	for ; i < t.rows; i++ {
		tile1x32NEON(&t.a[i*t.ars], t.aks, &t.b[0], t.bks, &t.c[i*t.ldc], t.k, t.load)
	}
}

// partPanelNEON computes a panel whose last columns are missing from C in a
// panel of its own.
func partPanelNEON(t block) {
	var tmp [4 * panelCols]float32
	part := t
	part.c, part.ldc, part.cols = tmp[:], panelCols, panelCols
	for i := 0; i < t.rows; i += 4 {
		part.a, part.rows = t.a[i*t.ars:], min(4, t.rows-i)
		for r := range part.rows {
			copy(tmp[r*panelCols:], t.c[(i+r)*t.ldc:][:t.cols])
		}
		wholePanelNEON(part)
		for r := range part.rows {
			copy(t.c[(i+r)*t.ldc:][:t.cols], tmp[r*panelCols:])
		}
	}
}
