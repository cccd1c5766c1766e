package sqlstore

import "testing"

func TestSpell(t *testing.T) {
	t.Parallel()
	const said = `SELECT {now} FROM runs r WHERE id IN {list $12} ORDER BY id LIMIT $3 {skip r}`
	for _, c := range []struct {
		words Words
		want  string
	}{
		{Words{Now: "1", List: "(VALUES (%s))"}, `SELECT 1 FROM runs r WHERE id IN (VALUES ($12)) ORDER BY id LIMIT $3 `},
		{Words{Now: "1", List: "(VALUES (%s))", Limit: "CAST(%s AS INTEGER)", Skip: "FOR UPDATE SKIP LOCKED"},
			`SELECT 1 FROM runs r WHERE id IN (VALUES ($12)) ORDER BY id LIMIT CAST($3 AS INTEGER) FOR UPDATE OF r SKIP LOCKED`},
	} {
		if got := NewSpeller(c.words).Spell(said); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}
