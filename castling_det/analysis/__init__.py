"""What trained models cost and reach: tables, studies and plots of them."""
