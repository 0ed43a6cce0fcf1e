"""Work that outlives every process: kept in Postgres, claimed for a while, run as a request any gateway can follow."""
