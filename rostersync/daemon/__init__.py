"""The daemon: it schedules runs, carries out requests, and stops without leaving work half done."""
