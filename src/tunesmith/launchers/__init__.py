"""Commands that platforms start instead of a bare worker, where one worker, started once, is not enough."""
