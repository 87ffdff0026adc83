"""What a drafter is, in every layout that trainers publish; see ``registry``."""
